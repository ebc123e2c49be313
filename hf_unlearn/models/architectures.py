"""Models that cannot be used here, each with the reason."""

from torch import nn

from .adapters import base_classifier

UNFIT = {
    "CanineForSequenceClassification": "has no table of token embeddings, which noise and gradients act on",
    "ImageGPTForImageClassification": "reads a picture as numbers of colors, which noise and gradients cannot act on",
    "PPLCNetForImageClassification": "returns no `logits`",
    "PerceiverForSequenceClassification": "has no table of token embeddings, which noise and gradients act on",
    "ReformerForSequenceClassification": "computes gradients only in training mode, and dropout must be off here",
    "Siglip2ForImageClassification": "reads patches with a mask and a grid instead of a picture",
}
"""class -> why no method can use it. Any other class is tried."""


def check_architecture(model: nn.Module) -> None:
    """Raise ValueError if `model` is no model of transformers, is wrapped in `DataParallel`, or is of a class in `UNFIT`."""
    classifier = base_classifier(model)
    name = type(classifier).__name__
    if isinstance(model, nn.DataParallel):
        raise ValueError("`model` is wrapped in `DataParallel`, which splits batches among GPUs. Pass `model.module`.")
    if not hasattr(classifier, "config"):
        raise ValueError(
            f"`model` is a {name} without a `config`, and a classifier of transformers is needed. Make it a `PreTrainedModel` whose "
            "`forward` takes `pixel_values` or `input_ids` and returns `logits`, as in `hf_unlearn/models/pixel_mlp.py`."
        )
    if name in UNFIT:
        raise ValueError(f"`model` is a {name}, which {UNFIT[name]}. Use a classifier of another architecture.")

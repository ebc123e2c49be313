"""Which class of transformers loads a classifier, and how it is loaded: from safetensors alone, in float32."""

import logging
from typing import Any

import datasets
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from .processor import IMAGE_COLUMNS


def is_image_dataset(dataset: datasets.Dataset) -> bool:
    """Check whether `dataset` has an image column."""
    kinds = {type(f).__name__ for f in dataset.features.values()}
    return "Image" in kinds or any(c in dataset.column_names for c in IMAGE_COLUMNS)


def classifier_class(config: Any, rows: datasets.Dataset | None = None) -> Any:
    """Return the Auto class of the classifier of images or texts that `config` describes.

    Where the architecture has both, the class name in `config` decides, and then the columns of `rows`.

    Raises:
        ValueError: the architecture has no classifier of images or texts, or `config` is of a model for another task.
    """
    name = (getattr(config, "architectures", None) or [""])[0]
    if "TokenClassification" in name:
        raise ValueError(f"the model is a {name}, which has a class for each token. Use a classifier of whole texts.")
    kinds = (AutoModelForImageClassification, AutoModelForSequenceClassification)
    fitting = [kind for kind in kinds if type(config) in kind._model_mapping]
    if not fitting:
        raise ValueError(f"a model of type {config.model_type!r} is no classifier of images or texts.")
    if len(fitting) == 1:
        return fitting[0]
    if name.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification
    images = "ForImageClassification" in name or (rows is not None and is_image_dataset(rows))
    return AutoModelForImageClassification if images else AutoModelForSequenceClassification


def from_pretrained_quietly(
    kind: Any, source: str, config: Any, revision: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load a model of the class `kind` in float32, from safetensors alone, and what transformers found out about its weights.

    Weights that do not fit are no error here and nothing is printed about them: the caller checks `missing_keys`,
    `mismatched_keys` and `unexpected_keys`.
    """
    report = logging.getLogger("transformers.modeling_utils")
    report.disabled = True
    try:
        return kind.from_pretrained(
            source,
            config=config,
            revision=revision,
            use_safetensors=True,
            dtype="float32",
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        report.disabled = False

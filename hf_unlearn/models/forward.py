"""Forward passes: from the inputs of a classifier to its logits, in evaluation mode where asked for.

All methods work on images and texts because both have a *continuous input* that noise and gradients can act on. For
images it is `pixel_values`. For text it is the output of the input embeddings, which a forward hook changes: token ids
cannot be perturbed, and passing `inputs_embeds` changes the logits of some classifiers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..utils.distributed import in_parallel

SAVED = 0.1  # share of the tokens of a batch that a second forward pass must save

Batch = dict[str, Any]
Edit = Callable[[Tensor], Tensor]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and `torch.compile` wrappers."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod  # type: ignore[assignment]
    return model


def is_text_model(model: nn.Module) -> bool:
    """Check whether the model reads token ids rather than pixels."""
    return getattr(unwrap(model), "main_input_name", "pixel_values") == "input_ids"


@contextmanager
def eval_mode(model: nn.Module, recompute: bool = True) -> Iterator[None]:
    """Inside, the model is in evaluation mode: no dropout, and BatchNorm statistics stay. The former modes return after it.

    Layers with activation checkpointing recompute during the backward pass, which may come after this context has ended.
    They are wrapped so that the recomputation also runs in evaluation mode.

    Args:
        recompute: False lets these layers keep their activations instead; default True.
    """
    states = [
        vars(m) for m in model.modules()
    ]  # read and written directly, because every step visits each module several times
    trained = [s for s in states if s.get("training")]  # a compiled wrapper has no mode of its own
    layers: list[Any] = []
    if recompute and torch.is_grad_enabled() and any(s.get("gradient_checkpointing") for s in states):
        layers = _checkpointing_layers(model)
    own = [vars(layer).get("forward") for layer in layers]  # a hook of accelerate may have set one
    for state in trained:
        state["training"] = False
    # The wrapper sits on the layer, because transformers checkpoints in the class, and only a layer in training mode.
    for layer in layers:
        layer.forward = partial(_recomputed, layer, layer.forward)
    with _no_cache(model) if layers else nullcontext():
        try:
            yield
        finally:
            for layer, former in zip(layers, own, strict=True):
                del layer.forward
                if former is not None:
                    layer.forward = former
            for state in trained:
                state["training"] = True


@contextmanager
def lone_values_normalized(model: nn.Module) -> Iterator[None]:
    """Inside, a BatchNorm in training mode normalizes a single value per channel by its running statistics.

    One value has no variance, and torch refuses it. It is what one row gives where pictures have shrunk to one pixel, as
    in the last batch of an epoch. Such a call leaves the statistics as they are. All other calls are as usual.
    """
    held: set[nn.Module] = set()

    def before(layer: Any, args: tuple[Tensor, ...]) -> None:
        if args and layer.training and layer.running_mean is not None and args[0].numel() == args[0].shape[1]:
            layer.training = False
            held.add(layer)

    def after(layer: nn.Module, *_: Any) -> None:
        if layer in held:
            layer.training = True
            held.remove(layer)

    # SyncBatchNorm counts the values of all processes, which must not take different ways.
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and type(m) is not nn.SyncBatchNorm
    ]
    handles = [m.register_forward_pre_hook(before) for m in norms]
    # Recomputation under activation checkpointing may leave a layer by an exception.
    handles += [m.register_forward_hook(after, always_call=True) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checkpointing_layers(model: nn.Module) -> list[Any]:
    """The layers with activation checkpointing switched on; of nested layers, the outermost."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        checkpoints = isinstance(module, GradientCheckpointingLayer) and vars(module).get("gradient_checkpointing")
        if checkpoints and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


@contextmanager
def _no_cache(model: nn.Module) -> Iterator[None]:
    """Inside, decoders cache no keys and values: a recomputed layer would add to the cache a second time."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}  # T5 has three
    caching = [c for c in configs.values() if getattr(c, "use_cache", False)]
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True


def _recomputed(layer: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward(*args, **kwargs)` of `layer` in evaluation mode, checkpointed if a gradient passes through the layer."""

    def run(*inputs: Any) -> Any:
        with eval_mode(layer, recompute=False):
            return forward(*inputs, **kwargs)

    learns = any(p.requires_grad for p in layer.parameters()) or any(getattr(a, "requires_grad", False) for a in args)
    return layer._gradient_checkpointing_func(run, *args) if learns and torch.is_grad_enabled() else run(*args)


def on_device(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch on the device of the model."""
    device = next(model.parameters()).device
    return {k: v.to(device) for k, v in batch.items()}


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the forward pass reads: the batch without labels."""
    return {k: v for k, v in batch.items() if k != "labels"}


def continuous_input(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return what noise acts on, pixels (B, C, H, W) or embeddings (B, T, E), and a mask for it that is 0 on padding."""
    if "pixel_values" in inputs:
        x = inputs["pixel_values"]
        return x, torch.ones((), device=x.device, dtype=x.dtype)
    x = _embeddings(model)(inputs["input_ids"])
    x = (x[0] if isinstance(x, tuple) else x).detach()  # I-BERT adds a scale
    mask = inputs.get("attention_mask")
    return x, (torch.ones(x.shape[:2], device=x.device) if mask is None else mask)[..., None].to(x.dtype)


def repeat_inputs(inputs: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Return `times` copies of the whole batch one after another."""
    return {k: v.repeat(times, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def replace_by(x: Tensor) -> Edit:
    """Return the edit that puts `x` in the place of the continuous input."""
    return lambda _: x


def in_precision(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inputs` with pixels in the half precision of the model, if any: convolutions do not cast their input."""
    precision = next(unwrap(model).parameters()).dtype
    if "pixel_values" not in inputs or precision not in (torch.float16, torch.bfloat16):
        return dict(inputs)
    return {**inputs, "pixel_values": inputs["pixel_values"].to(precision)}


def classify(model: nn.Module, inputs: Mapping[str, Any], edit: Edit | None = None) -> Tensor:
    """Return the logits (B, classes) of a batch, whose continuous input first passes through `edit` if one is given."""
    if "pixel_values" in inputs:
        pixels = inputs["pixel_values"] if edit is None else edit(inputs["pixel_values"])
        return logits_of(model(**in_precision(model, {**inputs, "pixel_values": pixels})))
    if edit is None:
        return logits_of(model(**inputs))
    embeddings, length = _embeddings(model), inputs["input_ids"].shape[1]
    # XLNet embeds (T, B) token ids, and an edit works on (B, T, E).
    swapped = getattr(getattr(unwrap(model), "config", None), "model_type", None) == "xlnet"
    calls: list[bool] = []

    def edited(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(True)
        if len(calls) > 1:  # a decoder that shares the table
            return output
        found = output[0] if isinstance(output, tuple) else output
        own = found.transpose(0, 1) if swapped else found
        new = edit(own[:, :length])
        if own.shape[1] > length:  # Longformer pads to whole windows
            new = torch.cat([new, own[:, length:]], 1)
        new = (new.transpose(0, 1) if swapped else new).to(found.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = embeddings.register_forward_hook(edited)
    try:
        logits = logits_of(model(**inputs))
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            f"`model`: {type(unwrap(model)).__name__} does not read its texts through `get_input_embeddings()`, so noise cannot act "
            "on them. Use a classifier of another architecture."
        )
    return logits


def classify_by_length(model: nn.Module, inputs: Mapping[str, Any], x: Tensor | None = None) -> Tensor:
    """Return the logits (B, classes) of `classify`. Padded texts go through `model` in two parts where that saves enough padding.

    `x` takes the place of the continuous input, if it is given.

    The parts are the longer and the shorter texts, and each is cut to its own length. One forward pass takes pictures, texts that are
    padded on the left, whose positions some models count from there, models with BatchNorm, whose statistics are of whole
    batches, and everything on a GPU, where a small pass takes as long as a large one, or in several processes.
    """
    mask, parts = inputs.get("attention_mask"), []
    if mask is not None and not in_parallel() and mask.device.type == "cpu" and mask[:, 0].all():
        lengths = (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)
        parts = _length_parts(lengths)
    if len(parts) < 2 or has_batch_norm(model):
        return classify(model, inputs, None if x is None else replace_by(x))
    logits = []
    for rows in parts:
        longest = int(lengths[rows].max())
        cut = {name: values[rows][:, :longest] for name, values in inputs.items()}
        logits.append(classify(model, cut, None if x is None else replace_by(x[rows][:, :longest])))
    return torch.cat(logits)[torch.cat(parts).argsort()]


def has_batch_norm(model: nn.Module) -> bool:
    """Return True if the rows of a batch may change each other's outputs in training mode."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _length_parts(lengths: Tensor) -> list[Tensor]:
    """Divide the rows of texts of these `lengths` (B,) into longer and shorter ones, so that both parts have the fewest tokens.

    All rows stay together if that saves less than `SAVED` of the tokens.
    """
    longest, order = lengths.sort(descending=True, stable=True)
    first = torch.arange(len(lengths))  # rows of the longer part; 0: all are together
    tokens = first * longest[0] + (len(lengths) - first) * longest
    best = int(tokens.argmin())
    return [order[:best], order[best:]] if tokens[best] <= (1 - SAVED) * tokens[0] else [order]


def _embeddings(model: nn.Module) -> Any:
    """The table of embeddings through which the model reads its tokens: of two, that of the encoder."""
    inner: Any = unwrap(model)
    both = getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    return (inner.get_encoder() if both else inner).get_input_embeddings()


def logits_of(output: Any) -> Tensor:
    """Return the logits of a classifier's output. With `return_dict=False` they are in a tuple, alone or behind the loss."""
    return next(part for part in output if part.ndim) if isinstance(output, tuple) else output.logits

"""From rows of a data set to model inputs, and from model inputs to logits.

Two modalities share every method: a *continuous input* that noise and gradients can act on. For images it is
`pixel_values`; for text it is the output of the input embeddings, reached by a forward hook, because token ids cannot be
perturbed and `inputs_embeds` changes the logits of some classifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .tables import Collector

Batch = dict[str, Any]
Edit = Callable[[Tensor], Tensor]

IMAGE_COLUMNS = ("image", "img", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "content", "input_ids")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and `torch.compile` wrappers."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod  # type: ignore[assignment]
    return model


def is_text_model(model: nn.Module) -> bool:
    """Whether the model reads token ids (`config.vocab_size`) rather than pixels."""
    return getattr(unwrap(model), "main_input_name", "pixel_values") == "input_ids"


class Processor:
    """Turns a row into model inputs and rows into a batch.

    Rows that hold `pixel_values` or `input_ids` are taken as they are; otherwise the image or text column goes through
    `processing_class`. Labels may be class ids or names of the model's `label2id`. Only what the model reads is kept.

    Args:
        model: the classifier, for its configuration.
        processing_class: image processor or tokenizer.
        image_column, text_column, label_column: column names; by default `image` or `img`, `text` or `sentence`, `label`.
    """

    def __init__(
        self,
        model: nn.Module,
        processing_class: Any | None = None,
        *,
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self.config: Any = unwrap(model).config
        self.text = is_text_model(model)
        self.processing_class = processing_class
        self.columns = (
            ([text_column] if text_column else list(TEXT_COLUMNS))
            if self.text
            else ([image_column] if image_column else list(IMAGE_COLUMNS))
        )
        self.ready = "input_ids" if self.text else "pixel_values"
        self.label_column = label_column
        self.label_columns = [label_column] if label_column else ["label", "labels"]
        self.label2id = {str(k): int(v) for k, v in (getattr(self.config, "label2id", None) or {}).items()}

    def check(self, dataset: Any, argument: str) -> None:
        """Raise ValueError where the first row of `dataset` cannot become an input of the model."""
        row = next(iter(dataset), None)
        if row is None:
            raise ValueError(f"`{argument}` is empty.")
        if self.label_column is not None and self.label_column not in row:
            raise ValueError(
                f"`label_column={self.label_column!r}` is not in `{argument}`, which has {', '.join(row)}."
            )
        try:
            self(row)
        except ValueError as error:
            raise ValueError(f"`{argument}`: {error}") from error

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One row as unpadded tensors: `pixel_values` (C, H, W) or `input_ids` (T,), and `labels` () where there are any."""
        column = self.ready if self.ready in row else next((c for c in self.columns if c in row), None)
        if column is None:
            kind = "text" if self.text else "image"
            raise ValueError(
                f"no {kind} column among {', '.join(row)}. Name it with `{kind}_column`, or rename it to `{self.columns[0]}`."
            )
        out = self._text(row, column) if self.text else {"pixel_values": self._image(row, column)}
        label = next((c for c in self.label_columns if c in row), None)
        if label is not None and row[label] is not None:
            out["labels"] = torch.tensor(self.class_id(row[label], label))
        return out

    def class_id(self, value: Any, column: str) -> int:
        """The number of a class given by number or name; ValueError where the head does not know it."""
        if isinstance(value, str):
            if value not in self.label2id:
                raise ValueError(f"label {value!r} in column '{column}' is not in the model's `label2id`.")
            return self.label2id[value]
        number = int(value)
        if not 0 <= number < self.config.num_labels:
            raise ValueError(
                f"label {number} in column '{column}' is outside the model's head, which has {self.config.num_labels} "
                f"classes (0..{self.config.num_labels - 1})."
            )
        return number

    def _image(self, row: Mapping[str, Any], column: str) -> Tensor:
        value = row[column]
        if column == "pixel_values":
            pixels = torch.as_tensor(np.asarray(value), dtype=torch.float32)
        elif self.processing_class is None:
            raise ValueError(
                f"column '{column}' holds images, and `processing_class` is missing. Pass the image processor."
            )
        else:
            if hasattr(value, "convert") and value.mode != "RGB" and getattr(self.config, "num_channels", 3) == 3:
                value = value.convert("RGB")
            pixels = self.processing_class(value, return_tensors="pt")["pixel_values"][0]
        self._check_image(pixels)
        return pixels

    def _check_image(self, pixels: Tensor) -> None:
        channels = getattr(self.config, "num_channels", None)
        if pixels.ndim != 3 or (channels is not None and pixels.shape[0] != channels):
            raise ValueError(
                f"an image has shape {tuple(pixels.shape)}, the model expects ({channels}, height, width)."
            )
        size = getattr(self.config, "image_size", None)
        fixed = hasattr(self.config, "patch_size") and hasattr(
            self.config, "num_attention_heads"
        )  # ViT-like: position table
        if fixed and isinstance(size, int) and tuple(pixels.shape[1:]) != (size, size):
            raise ValueError(
                f"an image has {pixels.shape[1]}×{pixels.shape[2]} pixels, the model expects {size}×{size}. Set the image "
                "processor's `size`."
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("an image holds NaN or infinite pixels. Remove or repair those rows.")

    def _text(self, row: Mapping[str, Any], column: str) -> dict[str, Any]:
        if column == "input_ids":
            keys = [k for k in ("input_ids", "attention_mask", "token_type_ids") if row.get(k) is not None]
            out = {k: torch.as_tensor(row[k]) for k in keys}
            out.setdefault("attention_mask", torch.ones_like(out["input_ids"]))  # or padding would be attended to
            return out
        if self.processing_class is None:
            raise ValueError(f"column '{column}' holds text, and `processing_class` is missing. Pass the tokenizer.")
        limit = getattr(self.config, "max_position_embeddings", None)
        if getattr(self.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") and limit:
            limit -= 2  # positions 0 and 1 are reserved
        limit = min(limit or 512, getattr(self.processing_class, "model_max_length", 512))
        encoded = self.processing_class(row[column], truncation=True, max_length=limit)
        return {k: torch.as_tensor(v) for k, v in encoded.items()}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack rows (raw or prepared) into one batch, padding text on the tokenizer's side."""
        ready = [r if isinstance(r.get(self.ready), Tensor) else self(r) for r in rows]
        batch: Batch = {}
        if all("labels" in r for r in ready):
            batch["labels"] = torch.stack([torch.as_tensor(r["labels"]) for r in ready])
        if not self.text:
            batch["pixel_values"] = torch.stack([r["pixel_values"] for r in ready])
            return batch
        inputs = [{k: v for k, v in r.items() if k != "labels"} for r in ready]
        if hasattr(self.processing_class, "pad"):
            batch.update(self.processing_class.pad(inputs, return_tensors="pt"))  # type: ignore[union-attr]
        else:
            for key in inputs[0]:
                fill = (getattr(self.config, "pad_token_id", 0) or 0) if key == "input_ids" else 0
                batch[key] = nn.utils.rnn.pad_sequence([r[key] for r in inputs], batch_first=True, padding_value=fill)
        return batch


@contextmanager
def eval_mode(model: nn.Module, recompute: bool = True) -> Iterator[None]:
    """Evaluation behaviour (no dropout, BatchNorm statistics frozen) inside, the former modes afterwards.

    Layers with activation checkpointing go on recomputing in the backward pass. That pass may come after this context has
    ended, so their forward is replaced by one that runs in eval mode whenever it is called. `recompute=False`: they keep
    their activations instead.
    """
    states = [vars(m) for m in model.modules()]  # written directly: a step does this for every module several times
    trained = [s for s in states if s.get("training")]  # a compiled wrapper has none of its own
    layers: list[Any] = []
    if recompute and torch.is_grad_enabled() and any(s.get("gradient_checkpointing") for s in states):
        layers = _checkpointing_layers(model)
    own = [vars(layer).get("forward") for layer in layers]  # a hook of accelerate may have set one
    for state in trained:
        state["training"] = False
    # On the layer itself: transformers checkpoints in the class, and only while the layer is in training mode.
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


def _checkpointing_layers(model: nn.Module) -> list[Any]:
    """The layers of `model` with activation checkpointing switched on; of nested ones the outermost."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and vars(module).get("gradient_checkpointing"):
            inner = any(name.startswith(f"{outer}.") for outer in found)
            found |= {} if inner else {name: module}
    return list(found.values())


@contextmanager
def _no_cache(model: nn.Module) -> Iterator[None]:
    """No cache of keys and values inside: a decoder's layer would add to it once more when it is computed again."""
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
    """`forward(*args, **kwargs)` of `layer` in eval mode, under checkpointing where a gradient passes through the layer."""

    def run(*inputs: Any) -> Any:
        with eval_mode(layer, recompute=False):
            return forward(*inputs, **kwargs)

    learns = any(p.requires_grad for p in layer.parameters()) or any(getattr(a, "requires_grad", False) for a in args)
    # Without a gradient, or below all that moves, there is nothing to recompute.
    return layer._gradient_checkpointing_func(run, *args) if learns and torch.is_grad_enabled() else run(*args)


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without labels: what the forward pass reads."""
    return {k: v for k, v in batch.items() if k != "labels"}


def continuous_input(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """What noise acts on: pixels (B, C, H, W) or embeddings (B, T, E); and a mask that broadcasts to it, 0 on padding."""
    if "pixel_values" in inputs:
        x = inputs["pixel_values"]
        return x, torch.ones((), device=x.device, dtype=x.dtype)
    x = unwrap(model).get_input_embeddings()(inputs["input_ids"]).detach()  # type: ignore[operator]
    mask = inputs.get("attention_mask")
    return x, (torch.ones(x.shape[:2], device=x.device) if mask is None else mask)[..., None].to(x.dtype)


def repeat_inputs(inputs: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Every tensor of the batch `times` times over, copies of the whole batch one after another."""
    return {k: v.repeat(times, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def replace_by(x: Tensor) -> Edit:
    """The edit that puts `x` in the place of the continuous input."""
    return lambda _: x


def in_precision(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs` with pixels in the model's half precision, if it has one: a convolution does not cast its input."""
    precision = next(unwrap(model).parameters()).dtype
    if "pixel_values" not in inputs or precision not in (torch.float16, torch.bfloat16):
        return dict(inputs)
    return {**inputs, "pixel_values": inputs["pixel_values"].to(precision)}


def classify(model: nn.Module, inputs: Mapping[str, Any], edit: Edit | None = None) -> Tensor:
    """Logits (B, classes) of a batch whose continuous input is first passed through `edit`."""
    if "pixel_values" in inputs:
        pixels = inputs["pixel_values"] if edit is None else edit(inputs["pixel_values"])
        return model(**in_precision(model, {**inputs, "pixel_values": pixels})).logits
    if edit is None:
        return model(**inputs).logits
    embeddings = unwrap(model).get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(lambda _m, _i, output: edit(output).to(output.dtype))
    try:
        return model(**inputs).logits
    finally:
        handle.remove()


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Any,
    processor: Processor,
    batch_size: int = 128,
    limit: int | None = None,
    folder: str | Path | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits (n, classes) in fp32 and labels (n,), or None where a row has none; eval mode, in order, on the CPU.

    `limit` bounds the rows that are read from a stream or a large set; very large results lie in `folder` (`new_table`).
    """
    device = next(model.parameters()).device
    rows: list[Any] = []
    size = min(len(dataset), len(dataset) if limit is None else limit) if hasattr(dataset, "__len__") else None
    logits, labels = Collector(size, folder), []

    def flush() -> None:
        batch = {k: v.to(device) for k, v in processor.collate(rows).items()}
        labels.append(batch["labels"].cpu() if "labels" in batch else None)
        logits.add(classify(model, model_inputs(batch)))
        rows.clear()

    with eval_mode(model):
        for number, row in enumerate(dataset):
            if limit is not None and number >= limit:
                break
            rows.append(row)
            if len(rows) == batch_size:
                flush()
        if rows:
            flush()
    if not labels:
        raise ValueError("`dataset` is empty: there is nothing to predict.")
    return logits.table(), None if any(x is None for x in labels) else torch.cat(labels)  # type: ignore[arg-type]

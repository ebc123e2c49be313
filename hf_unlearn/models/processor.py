"""`Processor`: a row of a data set becomes inputs of a model, and rows become a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .forward import Batch, is_text_model, model_inputs, unwrap

IMAGE_COLUMNS = ("image", "img", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "content", "input_ids")
RESERVED_POSITIONS = dict.fromkeys(("roberta", "xlm-roberta", "camembert"), 2)  # their positions start at 2


class Processor:
    """Turns a row into model inputs, and rows into a batch.

    Rows with `pixel_values` or `input_ids` are taken as they are. Otherwise the image or text column goes through
    `processing_class`. Labels may be class ids or names of the model's `label2id`. Only what the model reads is kept.

    Args:
        model: the classifier, for its configuration.
        processing_class: image processor or tokenizer; default None, which serves rows that are prepared already.
        image_column: column of images; by default `image` or `img`.
        text_column: column of texts; by default `text`, `sentence` or `content`.
        label_column: column of labels; by default `label` or `labels`.
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
        self.processing_class: Any = processing_class
        named, usual = (text_column, TEXT_COLUMNS) if self.text else (image_column, IMAGE_COLUMNS)
        self.columns = (named,) if named else usual
        self.ready = "input_ids" if self.text else "pixel_values"
        self.label_column = label_column
        self.label_columns = (label_column,) if label_column else ("label", "labels")
        self.label2id = {str(k): int(v) for k, v in (getattr(self.config, "label2id", None) or {}).items()}

    def check(self, dataset: Any, argument: str) -> None:
        """Raise ValueError, naming `argument`, if the first row of `dataset` cannot become an input of the model."""
        row = next(iter(dataset), None)
        if row is None:
            raise ValueError(f"`{argument}` is empty.")
        if self.label_column is not None and self.label_column not in row:
            raise ValueError(f"`label_column={self.label_column!r}` is not in `{argument}`: it has {', '.join(row)}.")
        try:
            self(row)
        except ValueError as error:
            raise ValueError(f"`{argument}`: {error}") from error

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as unpadded tensors: `pixel_values` (C, H, W) or `input_ids` (T,), and `labels` () if it has one."""
        column = self.ready if self.ready in row else next((c for c in self.columns if c in row), None)
        if column is None:
            kind = "text" if self.text else "image"
            raise ValueError(
                f"no {kind} column among {', '.join(row)}. Name it in `{kind}_column`, or rename it `{self.columns[0]}`."
            )
        if column != self.ready and self.processing_class is None:
            kind, needed = ("text", "tokenizer") if self.text else ("images", "image processor")
            raise ValueError(f"column '{column}' holds {kind}, and `processing_class` is missing. Pass the {needed}.")
        out = self._text(row, column) if self.text else {"pixel_values": self._image(row, column)}
        label = next((c for c in self.label_columns if c in row), None)
        if label is not None and row[label] is not None:
            out["labels"] = torch.tensor(self.class_id(row[label], label))
        return out

    def class_id(self, value: Any, column: str) -> int:
        """Return the number of a class of the model that is given by number or name."""
        if isinstance(value, str):
            if value not in self.label2id:
                raise ValueError(
                    f"a label in column '{column}' is not in the model's `label2id`."
                )  # it may be anything
            return self.label2id[value]
        number, classes = int(value), self.config.num_labels
        if not 0 <= number < classes:
            raise ValueError(
                f"a label in column '{column}' is outside the model's {classes} classes (0..{classes - 1})."
            )
        return number

    def _image(self, row: Mapping[str, Any], column: str) -> Tensor:
        value = row[column]
        if column == "pixel_values":
            pixels = torch.as_tensor(np.asarray(value), dtype=torch.float32)
        else:
            if hasattr(value, "convert") and value.mode != "RGB" and getattr(self.config, "num_channels", 3) == 3:
                value = value.convert("RGB")
            pixels = self.processing_class(value, return_tensors="pt")["pixel_values"][0]
        shape, channels = tuple(pixels.shape), getattr(self.config, "num_channels", None)
        if len(shape) != 3 or (channels is not None and shape[0] != channels):
            raise ValueError(f"an image has shape {shape}, the model expects ({channels}, height, width).")
        # A transformer on patches has one position for each of them.
        fixed = hasattr(self.config, "patch_size") and hasattr(self.config, "num_attention_heads")
        size = getattr(self.config, "image_size", None)
        if fixed and isinstance(size, int) and shape[1:] != (size, size):
            raise ValueError(
                f"an image has {shape[1]}×{shape[2]} pixels, the model expects {size}×{size}. Set `size` of the processor."
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("an image holds NaN or infinite pixels. Remove or repair those rows.")
        return pixels

    def _text(self, row: Mapping[str, Any], column: str) -> dict[str, Any]:
        if column == "input_ids":
            keys = [k for k in ("input_ids", "attention_mask", "token_type_ids") if row.get(k) is not None]
            out = {k: torch.as_tensor(row[k]) for k in keys}
            out.setdefault("attention_mask", torch.ones_like(out["input_ids"]))  # or padding would be attended to
            return out
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit:
            limit -= RESERVED_POSITIONS.get(getattr(self.config, "model_type", ""), 0)
        limit = min(limit or 512, getattr(self.processing_class, "model_max_length", 512))
        encoded = self.processing_class(row[column], truncation=True, max_length=limit)
        return {k: torch.as_tensor(v) for k, v in encoded.items()}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Return rows, raw or prepared, as one batch; texts are padded on the tokenizer's side."""
        ready = [r if isinstance(r.get(self.ready), Tensor) else self(r) for r in rows]
        batch: Batch = {}
        if all("labels" in r for r in ready):
            batch["labels"] = torch.stack([torch.as_tensor(r["labels"]) for r in ready])
        if not self.text:
            batch["pixel_values"] = torch.stack([r["pixel_values"] for r in ready])
            return batch
        inputs = [model_inputs(r) for r in ready]
        if hasattr(self.processing_class, "pad"):
            batch.update(self.processing_class.pad(inputs, return_tensors="pt"))
        else:
            for key in inputs[0]:
                fill = (getattr(self.config, "pad_token_id", 0) or 0) if key == "input_ids" else 0
                batch[key] = nn.utils.rnn.pad_sequence([r[key] for r in inputs], batch_first=True, padding_value=fill)
        return batch

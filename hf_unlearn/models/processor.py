"""`Processor`: a row of a data set becomes inputs of a model, and rows become a batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.class_names import align_labels
from ..data.columns import find_label_column
from .forward import Batch, is_text_model, model_inputs, unwrap
from .labels import check_head, class_number, head_names, is_missing
from .text_inputs import TextInputs

IMAGE_COLUMNS = ("image", "img", "pixel_values")

logger = logging.getLogger(__name__)


class Processor:
    """Turns a row into model inputs, and rows into a batch.

    Rows with `pixel_values` or `input_ids` are taken as they are. Otherwise the image or text column goes through
    `processing_class`. Labels may be class ids or names of the model's `label2id`. Only what the model reads is kept.

    Args:
        model: the classifier, for its configuration.
        processing_class: image processor or tokenizer; default None, which serves rows that are prepared already.
        image_column: column of images; by default `image` or `img`.
        text_column: column of texts, or two columns for pairs of texts; by default the usual names (see `text_inputs`).
        label_column: column of labels; by default `label` or `labels`.
    """

    def __init__(
        self,
        model: nn.Module,
        processing_class: Any | None = None,
        *,
        image_column: str | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
    ) -> None:
        self.config: Any = unwrap(model).config
        self.text = is_text_model(model)
        self.processing_class: Any = processing_class
        self.texts = TextInputs(model, processing_class, text_column) if self.text else None
        image_columns = (image_column,) if image_column else IMAGE_COLUMNS
        self.columns = self.texts.names if self.texts else image_columns  # that may be read
        self.ready = "input_ids" if self.text else "pixel_values"
        self.label_column = label_column
        self.label_columns = (label_column,) if label_column else ("label", "labels")
        self.label2id = head_names(self.config)
        self._said: set[str] = set()

    def check(self, dataset: Any, argument: str) -> None:
        """Raise ValueError, naming `argument`, if the first row of `dataset` cannot become an input of the model."""
        row = next(iter(dataset), None)
        if row is None:
            raise ValueError(f"`{argument}` is empty.")
        if self.label_column is not None and self.label_column not in row:
            raise ValueError(f"`label_column={self.label_column!r}` is not in `{argument}`: it has {', '.join(row)}.")
        try:
            if self.texts is not None:
                self.texts.columns(row)
        except ValueError as error:
            raise ValueError(f"`{argument}`: {error}") from error
        try:
            self(row)
        except ValueError as error:
            raise ValueError(f"`{argument}`{', row 0' if self.texts else ''}: {error}") from error
        if self.texts is not None:
            self.texts.warn_unread(row, argument, self.label_columns)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as unpadded tensors: `pixel_values` (C, H, W) or `input_ids` (T,), and `labels` () if it has one."""
        out = self.texts(row) if self.texts is not None else {"pixel_values": self._image(row, self._image_column(row))}
        label = next((c for c in self.label_columns if c in row), None)
        if label is not None and not is_missing(row[label]):
            out["labels"] = torch.tensor(self.class_id(row[label], label))
        return out

    def class_id(self, value: Any, column: str) -> int:
        """Return the number of a class of the model that is given by number or name."""
        return class_number(value, column, self.label2id, self.config.num_labels)

    def align(self, dataset: Any, argument: str, quiet: bool = False) -> Any:
        """Return `dataset` with the model's numbers in its label column, by the names of its classes.

        What differed is logged once, unless `quiet`.

        Args:
            dataset: a data set, a stream, or a dictionary of them. Anything without class names comes back as it is.
            argument: the name of the argument that holds `dataset`, for errors.

        Raises:
            ValueError: as `align_labels`.
        """
        if isinstance(dataset, Mapping):
            return {name: self.align(rows, f"{argument}[{name!r}]", quiet) for name, rows in dataset.items()}
        if getattr(dataset, "features", None) is None:
            return dataset
        column = find_label_column(dataset, self.label_columns[0])
        if column is None:
            return dataset
        check_head(self.config, column)
        aligned, said = align_labels(dataset, column, self.label2id, self.config.num_labels, argument)
        if said is not None and said not in self._said and not quiet:
            self._said.add(said)
            logger.warning("`%s`: %s", argument, said)
        return aligned

    def _image_column(self, row: Mapping[str, Any]) -> str:
        column = self.ready if self.ready in row else next((c for c in self.columns if c in row), None)
        if column is None:
            raise ValueError(
                f"no image column among {', '.join(row)}. Name it in `image_column`, or rename it `{self.columns[0]}`."
            )
        if column != self.ready and self.processing_class is None:
            raise ValueError(
                f"column '{column}' holds images, and `processing_class` is missing. Pass the image processor."
            )
        return column

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

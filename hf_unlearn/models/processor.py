"""`Processor`: a row of a data set becomes inputs of a model, and rows become a batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.bad_rows import CellError, check_row, first_row
from ..data.class_names import align_labels
from ..data.columns import find_label_column, read_labels
from .architectures import check_architecture
from .forward import Batch, is_text_model, model_inputs, unwrap
from .image_inputs import ReadableSizes, check_picture, read_picture
from .labels import check_head, class_number, head_names, is_missing, missing_labels
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
        check_architecture(model)
        self.config: Any = unwrap(model).config
        self.text = is_text_model(model)
        self.processing_class: Any = processing_class
        self.sizes = ReadableSizes(model)
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
        row = first_row(dataset, argument)
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
            where = ", row 0," if isinstance(error, CellError) else ", row 0:" if self.texts else ":"
            raise ValueError(f"`{argument}`{where} {error}") from error
        if self.texts is not None:
            self.texts.warn_unread(row, argument, self.label_columns)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as unpadded tensors: `pixel_values` (C, H, W) or `input_ids` (T,), and `labels` () if it has one."""
        check_row(row)
        out = self.texts(row) if self.texts is not None else {"pixel_values": self._image(row, self._image_column(row))}
        label = next((c for c in self.label_columns if c in row), None)
        if label is not None and not is_missing(row[label]):
            out["labels"] = torch.tensor(self.class_id(row[label], label))
        return out

    def prepared(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row as the tensors that `__call__` makes, or the row itself if it is prepared already."""
        return row if isinstance(row.get(self.ready), Tensor) else self(row)

    def class_id(self, value: Any, column: str) -> int:
        """Return the number of a class of the model that is given by number or name."""
        return class_number(value, column, self.label2id, self.config.num_labels)

    def class_counts(self, rows: Any) -> Tensor | None:
        """Count the labeled rows of each class of the model in a map-style data set or a list, (classes,); None for others."""
        column = find_label_column(rows, self.label_columns[0])
        if column is None or not hasattr(rows, "__len__"):
            return None
        if isinstance(rows, list):
            labels = np.array([row[column] for row in rows])
        elif hasattr(rows, "features"):
            labels = read_labels(rows, column)
        else:
            return None
        counts = torch.zeros(self.config.num_labels, dtype=torch.long)
        for value, count in zip(*np.unique(labels[~missing_labels(labels)], return_counts=True), strict=True):
            counts[self.class_id(value, column)] += int(count)
        return counts

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
            kind: Any = type(dataset)  # a `DatasetDict` stays one, and is refused as such
            return kind({name: self.align(rows, f"{argument}[{name!r}]", quiet) for name, rows in dataset.items()})
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

    def inputs_among(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of these columns the model reads, none if it finds no input there."""
        if self.texts is None:
            return next(((c,) for c in (self.ready, *self.columns) if c in names), ())
        try:
            return self.texts.columns(names)
        except ValueError:
            return ()

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
        channels = getattr(self.config, "num_channels", None)
        pixels = (
            self._prepared(row[column], column) if column == "pixel_values" else self._processed(row[column], column)
        )
        shape = tuple(pixels.shape)
        if len(shape) != 3 or (channels is not None and shape[0] != channels):
            raise CellError(f"an image has shape {shape}, the model expects ({channels}, height, width).", column)
        if shape not in self.sizes:
            raise CellError(
                f"an image has {shape[1]}×{shape[2]} pixels, the model expects {self.sizes}. Set `size` of the processor.",
                column,
            )
        if not torch.isfinite(pixels).all():
            made = (
                "" if column == "pixel_values" else " If its values are right, correct `image_mean`, `image_std` and "
            )
            made += made and "`rescale_factor` of the image processor."
            raise CellError(f"an image holds NaN or infinite pixels. Remove or repair those rows.{made}", column)
        return pixels

    def _prepared(self, value: Any, column: str) -> Tensor:
        """Return pixels that the model reads as they are."""
        try:
            return torch.as_tensor(np.asarray(value), dtype=torch.float32)
        except (ValueError, TypeError) as error:
            raise CellError(
                "it holds no array of numbers (channels, height, width). Raw pictures belong in a column `image`.",
                column,
            ) from error

    def _processed(self, value: Any, column: str) -> Tensor:
        """Return the pixels that the image processor makes of a picture."""
        try:
            picture = read_picture(value, column, *self._picture_form)
        except ValueError as error:
            raise CellError(str(error), column) from error
        try:
            return self.processing_class(picture, return_tensors="pt")["pixel_values"][0]
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise CellError(f"`processing_class` does not read the picture: {error}", column) from error

    @property
    def _picture_form(self) -> tuple[int | None, bool]:
        return getattr(self.config, "num_channels", None), getattr(self.processing_class, "do_rescale", True)

    def check_cell(self, row: Mapping[str, Any]) -> tuple[int, int] | None:
        """Raise ValueError if a row cannot become an input. A raw picture is not prepared for this.

        Returns width and height of such a picture, None for any other row.
        """
        check_row(row)
        column = next((c for c in (self.ready, *self.columns) if c in row), None)
        value = None if column is None else row[column]
        prepared = self.text or column in (None, self.ready) or self.processing_class is None
        try:
            if not prepared:
                return check_picture(value, str(column), *self._picture_form)
            self(row)
        except ValueError as error:
            if column is not None and (value is None or (isinstance(value, float) and value != value)):
                raise CellError("it is empty. Drop the row, or fill it in.", column) from error
            raise error if prepared else CellError(str(error), column) from error
        return None

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Return rows, raw or prepared, as one batch; texts are padded on the tokenizer's side."""
        ready = list(map(self.prepared, rows))
        batch: Batch = {}
        if all("labels" in r for r in ready):
            batch["labels"] = torch.stack([torch.as_tensor(r["labels"]) for r in ready])
        if not self.text:
            shapes = sorted({tuple(r["pixel_values"].shape) for r in ready})
            if len(shapes) > 1:
                raise ValueError(
                    f"pictures of one batch have the shapes {shapes[0]} and {shapes[-1]}. Let the image processor give all of "
                    "them one size: set `size` to a height and a width, or `do_center_crop=True`."
                )
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

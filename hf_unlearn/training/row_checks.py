"""One pass over all rows of a set before the first step, so that a damaged row does not end a run after hours."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from tqdm.auto import tqdm

from ..data.bad_rows import CellError, in_row, naming_row, read_named, undecoded
from ..data.sampling import READ_AT_ONCE, has_transform
from ..models.prediction import PATIENCE
from ..models.processor import Processor

_checked: WeakKeyDictionary[Any, set[tuple[str, ...]]] = WeakKeyDictionary()  # columns that were read of a data set


def check_every_row(processor: Processor, data: Any, argument: str) -> None:
    """Read every row of `data` once and raise ValueError, naming row and column, if one cannot become an input of the model.

    Pictures are opened and decoded, but not prepared; a JPEG is decoded at an eighth of its size. Texts are tokenized. Rows with
    a transform of the user are read as they are stored. A `datasets.Dataset` that was checked before is not read again.
    """
    known = _checked.setdefault(data, set()) if hasattr(data, "with_format") else set()
    if not hasattr(data, "__len__") or processor.columns in known:
        return
    own = has_transform(data)
    stored = undecoded(data)
    columns = getattr(stored, "column_names", None)
    if columns is not None and processor.ready in columns and not processor.text and not own:
        _check_pixels(stored.with_format("numpy", columns=[processor.ready]), processor.ready, argument)
    elif not own or not processor.text:
        sizes: dict[tuple[int, int], int] = {}  # the first row of each size
        for index, row in _rows(stored, argument):
            if own and not set(processor.columns) & row.keys():
                break  # what the model reads is made by the transform
            with naming_row(argument, index):
                size = processor.check_cell(row)
            if size is not None:
                sizes.setdefault(size, index)
        if not own:
            _check_sizes(processor, stored, sizes, argument)
    known.add(processor.columns)


def _rows(rows: Any, argument: str) -> Iterator[tuple[int, Any]]:
    starts = range(0, len(rows), READ_AT_ONCE)
    for start in tqdm(starts, f"Checking `{argument}`", delay=PATIENCE, leave=False, disable=None, unit="batch"):
        indices = list(range(start, min(start + READ_AT_ONCE, len(rows))))
        yield from zip(indices, read_named(rows, indices, argument), strict=True)


def _check_pixels(arrays: Any, column: str, argument: str) -> None:
    """Check that prepared pixels are numbers and of one shape."""
    shape: tuple[int, ...] | None = None
    for index, row in _rows(arrays, argument):
        pixels = np.asarray(row[column])
        shape = shape or pixels.shape
        if pixels.dtype.kind not in "biuf" or pixels.shape != shape:
            why = f"its array has shape {pixels.shape}, and that of row 0 has {shape}. All must have one shape."
            raise in_row(argument, index, CellError(why, column))
        if not np.isfinite(pixels).all():
            raise in_row(argument, index, CellError("an image holds NaN or infinite pixels.", column))


def _check_sizes(processor: Processor, rows: Any, sizes: dict[tuple[int, int], int], argument: str) -> None:
    """Check that the narrowest, widest, smallest and largest pictures become inputs of one shape."""
    if len(sizes) < 2:
        return
    by_ratio, by_area = (sorted(sizes, key=key) for key in (lambda s: s[0] / s[1], lambda s: s[0] * s[1]))
    shape: tuple[int, ...] | None = None
    for index in sorted({sizes[s] for s in (by_ratio[0], by_ratio[-1], by_area[0], by_area[-1])}):
        with naming_row(argument, index):
            found = tuple(processor(rows[index])["pixel_values"].shape)
        if shape is not None and found != shape:
            why = (
                f"the image processor makes {found} of it and {shape} of an earlier row, which do not fit into one batch. Set its "
                "`size` to a height and a width, or `do_center_crop=True`."
            )
            column = next(c for c in processor.columns if c in rows[index])
            raise in_row(argument, index, CellError(why, column))
        shape = found

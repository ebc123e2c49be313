"""Rows that are in the forget set and in the retain set: a mistake if they are many, and a copy that stays if they are few."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .sampling import drawn_rows

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ROWS, BYTES = 50_000, 2**29  # read of each set at most


def check_overlap(forget: datasets.Dataset, retain: datasets.Dataset, limit: int = ROWS) -> None:
    """Raise ValueError where rows of the forget set are in the retain set as well.

    Rows are compared by content digest. Real data has honest duplicates, so a few common rows are a warning (a copy that
    stays in the retain set keeps its influence); half of the forget set or more is an error. Of large sets at most `limit`
    rows, or 512 MiB, are read, drawn at random; from them the number of common rows is estimated.
    """
    shared = sorted(set(forget.column_names) & set(retain.column_names))
    if not shared:
        return
    own, own_share = _digests(forget.select_columns(shared), limit, 1)
    others, others_share = _digests(retain.select_columns(shared), limit, 2)
    found = int(np.isin(own, others).sum())
    if not found:
        return
    common = min(len(forget), round(found / (own_share * others_share)))
    number = f"{'' if own_share == others_share == 1 else 'about '}{common} of {len(forget)}"
    if common >= 0.5 * len(forget):
        raise ValueError(
            f"`forget_dataset` and `retain_dataset` overlap: {number} rows to forget are also retained. Build both with "
            "`ForgetRequest(...).split(dataset)`."
        )
    logger.warning(
        "%s rows to forget have an identical copy in `retain_dataset`; what those copies teach will stay.", number
    )


def fingerprint(dataset: Any) -> str | None:
    """A digest of what a data set holds, and in which order, the same in every process; None where it is no table.

    Of very large sets a million rows, or 512 MiB, drawn by seed; of files their names and sizes. Whoever knows it can test
    guesses of the whole set: it is for files that stay where the data are.
    """
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        return None
    chosen = _drawn(dataset, 1_000_000, 3)
    digest = hashlib.blake2b(json.dumps([len(dataset), dataset.column_names]).encode(), digest_size=16)
    if dataset._indices is not None:
        rows = dataset._indices.column(0).to_numpy()[chosen].astype(np.int64)
        digest.update(b"" if (np.diff(rows) >= 0).all() else rows.argsort(kind="stable").tobytes())
    files = any(getattr(f, "decode", False) for f in dataset.features.values())  # of images or sounds
    for columns in _columns(dataset, chosen):
        for row in zip(*map(_cells, columns), strict=True):
            for cell in row:
                told = _file(cell) if files and isinstance(cell, str) else cell
                held = told if isinstance(told, bytes) else repr(told).encode()
                digest.update(len(held).to_bytes(8, "little") + held)
    return digest.hexdigest()


def _file(path: str) -> Any:
    """Name and size of a file, which may have been moved since; a text that names none as it is."""
    return [os.path.basename(path), os.path.getsize(path)] if os.path.isabs(path) and os.path.isfile(path) else path


def _digests(dataset: datasets.Dataset, limit: int, seed: int) -> tuple[np.ndarray, float]:
    """A 64-bit digest of each row, or of some rows drawn by seed, and their share of all; the same in this process only."""
    chosen = _drawn(dataset, limit, seed)
    digests = (hash(row) for columns in _columns(dataset, chosen) for row in zip(*map(_cells, columns), strict=True))
    return np.fromiter(digests, np.int64, len(chosen)), len(chosen) / max(1, len(dataset))


def _drawn(dataset: datasets.Dataset, limit: int, seed: int) -> np.ndarray:
    """At most `limit` row numbers, drawn by seed, of rows that take `BYTES` together."""
    row_bytes = dataset.data.nbytes / max(1, dataset.data.num_rows)
    return drawn_rows(len(dataset), min(limit, max(1, int(BYTES / max(1, row_bytes)))), seed)


def _columns(dataset: datasets.Dataset, rows: np.ndarray) -> Iterator[list[Any]]:
    """The Arrow columns of these rows, part by part, structures taken apart and extension types as what they store.

    Read past `datasets`, which goes row by row where a set is a selection: ten times slower here, and more with images.
    """
    import pyarrow as pa

    if dataset._indices is not None:
        rows = np.sort(dataset._indices.column(0).to_numpy()[rows])
    start = 0
    for batch in dataset.data.table.to_batches():
        own = rows[slice(*np.searchsorted(rows, (start, start + len(batch))))] - start
        start += len(batch)
        columns = [getattr(c, "storage", c).take(pa.array(own)) for c in batch.columns] if len(own) else []
        while any(pa.types.is_struct(c.type) for c in columns):
            columns = [part for c in columns for part in (c.flatten() if pa.types.is_struct(c.type) else [c])]
        if columns:
            yield columns


def _cells(array: Any) -> list[Any]:
    """The values of an Arrow array, hashable; those of numbers as bytes: as a list each number would be an object."""
    import pyarrow as pa

    bounds, numbers = np.arange(len(array) + 1), array
    while pa.types.is_nested(numbers.type) and hasattr(numbers, "values"):  # lists, of fixed length or not
        fixed = getattr(numbers.type, "list_size", None)
        bounds = numbers.offsets.to_numpy()[bounds] if fixed is None else (bounds + numbers.offset) * fixed
        numbers = numbers.values
    flat, missing = numbers is array, None
    if pa.types.is_temporal(numbers.type) and pa.types.is_primitive(numbers.type):
        numbers = numbers.view(f"int{numbers.type.bit_width}")
    if flat and numbers.null_count and pa.types.is_primitive(numbers.type):
        missing = numbers.is_null().to_numpy(zero_copy_only=False)
        numbers = numbers.fill_null(0 if not pa.types.is_boolean(numbers.type) else False)
    if numbers.null_count or not pa.types.is_primitive(numbers.type):
        return [repr(v) if isinstance(v, list | dict) else v for v in array.to_pylist()]
    raw = memoryview(numbers.to_numpy(zero_copy_only=False)).cast("B")
    width = len(raw) // max(1, len(numbers))
    cells: list[Any] = [bytes(raw[a * width : b * width]) for a, b in pairwise(bounds.tolist())]
    return cells if missing is None else [None if gone else cell for cell, gone in zip(cells, missing, strict=True)]

"""Rows that are both in the forget set and in the retain set. Many are a mistake; a few are copies whose influence stays."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.files import file_digest
from .sampling import drawn_rows

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ROWS, BYTES = 50_000, 2**29  # read of each set at most
FILES = ("Image", "Audio")  # features that are stored as bytes and path


def check_overlap(forget: datasets.Dataset, retain: datasets.Dataset, limit: int = ROWS) -> None:
    """Compare the rows of both sets by their content, and warn about common rows.

    Real data has honest duplicates, so a few common rows are a warning. Of large sets at most `limit` rows (50,000 by default),
    or 512 MiB, are read, drawn at random, and the number of common rows is estimated from them.

    Raises:
        ValueError: half of the forget set or more is in the retain set.
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
        "%s rows to forget have an identical copy in `retain_dataset`. What the model learns from the copies stays.",
        number,
    )


def seen_rows(rows: Any, trained: Any, columns: Sequence[str], limit: int = ROWS) -> tuple[int, bool]:
    """Count the rows that have the same content in `columns` as a row of `trained`. Pictures are compared by their files' bytes.

    Returns:
        The number, and whether it is exact: of large sets at most `limit` rows (50,000 by default), or 512 MiB, are read. The
        number is 0 for sets that are no `datasets.Dataset`, or that lack a column.
    """
    sets = (rows, trained)
    if not all(
        hasattr(s, "select_columns") and hasattr(s, "__len__") and set(columns) <= {*s.column_names} for s in sets
    ):
        return 0, False
    chosen = [s.select_columns(list(columns)) for s in sets]
    sides = [(s, _drawn(s, limit, number)) for number, s in enumerate(chosen, 1)]
    pictures = all(type(f).__name__ in FILES for s in chosen for f in s.features.values())
    keys = [list(map(_content, _rows(*side))) if pictures else list(_rows(*side)) for side in sides]
    common = {*keys[0]} & {*keys[1]}
    if any(isinstance(cell, _Size) for key in common for cell in key):  # files of one size may differ
        again = [zip(_rows(*side), own, strict=True) for side, own in zip(sides, keys, strict=True)]
        keys = [[_content(row, True) if key in common else key for row, key in side] for side in again]
        common = {*keys[0]} & {*keys[1]}
    found = sum(key in common for key in keys[0])
    shares = [len(drawn) / max(1, len(s)) for s, drawn in sides]
    return min(len(rows), round(found / max(1e-9, shares[0] * shares[1]))), shares == [1, 1]


class _Size(int):
    """The size of a file, which stands for its content."""


def _content(row: tuple[Any, ...], read: bool = False) -> tuple[Any, ...]:
    """Return pictures or sounds, given as bytes and path, as bytes alone, or as a file's size or, if `read`, its digest."""
    pairs = zip(row[::2], row[1::2], strict=True)
    return tuple(
        data if data is not None or not os.path.isfile(path or "")
        else file_digest(path) if read else _Size(os.path.getsize(path)) for data, path in pairs
    )  # fmt: skip


def fingerprint(dataset: Any) -> str | None:
    """Return a digest of the rows of a data set and their order, the same in every process. None for a stream or a list.

    Of very large sets a million rows, or 512 MiB, count, drawn by seed; of files only their names and sizes. Whoever has the
    fingerprint can test guesses of the whole set, so it belongs only into files that stay with the data.
    """
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        return None
    chosen = _drawn(dataset, 1_000_000, 3)
    digest = hashlib.blake2b(json.dumps([len(dataset), dataset.column_names]).encode(), digest_size=16)
    if dataset._indices is not None:
        rows = dataset._indices.column(0).to_numpy()[chosen].astype(np.int64)
        digest.update(b"" if (np.diff(rows) >= 0).all() else rows.argsort(kind="stable").tobytes())
    files = any(getattr(f, "decode", False) for f in dataset.features.values())  # images or sounds
    for row in _rows(dataset, chosen):
        for cell in row:
            value = _file(cell) if files and isinstance(cell, str) else cell
            content = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _file(path: str) -> Any:
    """Return the name and the size of a file, whose folder may change, or the text itself if it is no path of a file."""
    return [os.path.basename(path), os.path.getsize(path)] if os.path.isabs(path) and os.path.isfile(path) else path


def _digests(dataset: datasets.Dataset, limit: int, seed: int) -> tuple[np.ndarray, float]:
    """Return 64-bit digests of at most `limit` rows, valid in this process only, and the share of the rows that they cover."""
    chosen = _drawn(dataset, limit, seed)
    return np.fromiter(map(hash, _rows(dataset, chosen)), np.int64, len(chosen)), len(chosen) / max(1, len(dataset))


def _drawn(dataset: datasets.Dataset, limit: int, seed: int) -> np.ndarray:
    """Draw at most `limit` row numbers, and no more than `BYTES` of rows."""
    row_bytes = dataset.data.nbytes / max(1, dataset.data.num_rows)
    return drawn_rows(len(dataset), min(limit, max(1, int(BYTES / max(1, row_bytes)))), seed)


def _rows(dataset: datasets.Dataset, chosen: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yield these rows as tuples of hashable values, structures flattened and extension types as they are stored.

    The Arrow table is read directly, because `datasets` reads a selection row by row: ten times slower, and more with images.
    """
    import pyarrow as pa

    if dataset._indices is not None:
        chosen = np.sort(dataset._indices.column(0).to_numpy()[chosen])
    start = 0
    for batch in dataset.data.table.to_batches():
        own = chosen[slice(*np.searchsorted(chosen, (start, start + len(batch))))] - start
        start += len(batch)
        columns = [getattr(c, "storage", c).take(pa.array(own)) for c in batch.columns] if len(own) else []
        while any(pa.types.is_struct(c.type) for c in columns):
            columns = [part for c in columns for part in (c.flatten() if pa.types.is_struct(c.type) else [c])]
        if columns:
            yield from zip(*map(_hashable, columns), strict=True)


def _hashable(array: Any) -> list[Any]:
    """Return the values of an Arrow array; numbers and lists of numbers as bytes, because a list would make each an object."""
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

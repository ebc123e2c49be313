"""Requests on streams: only the rows to forget are held in memory. The others are read as they come."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import check_column
from .forget_request import ForgetRequest, Split

if TYPE_CHECKING:
    import datasets

SHUFFLE_BUFFER = 1_000  # rows that are shuffled at a time, beside the order of the files
PART_ROWS = 1_000  # rows of one Arrow table


def split_stream(request: ForgetRequest, stream: datasets.IterableDataset, seed: int = 0) -> Split:
    """Split a stream into the rows to forget, in memory and undecoded, and the others as a stream shuffled with `seed`.

    The stream is read twice: first only the columns that the request names, then the rows to forget. A row is recognized by its
    values in those columns, because rows of a shuffled stream have no fixed number.

    Raises:
        ValueError: as `ForgetRequest.split`, or a criterion that the row's own values do not decide.
    """
    by_number = (request.indices, request.fraction, None if request.column else request.ids_file)
    if any(c is not None for c in (*by_number, request.predicate)) or request.union or request.intersection:
        raise ValueError("Rows of a stream are selected by `label` and by `column` with `values`, and by nothing else.")
    named = {"label_column": request.label_column if request.label is not None else None, "column": request.column}
    used = [name for name in named.values() if name is not None]
    for argument, name in named.items():
        if name is not None:
            check_column(features_of(stream), name, argument)
    seen = read_into_memory(stream.select_columns(used))
    mask = request.mask(seen)
    chosen = np.flatnonzero(mask)
    request.check_selection(len(chosen), len(mask))
    columns = seen.with_format("arrow")[:].take(chosen).to_pydict()
    values = set(zip(*(columns[name] for name in used), strict=True))
    forget = read_into_memory(
        stream.decode(False).filter(partial(_matches, values, True), input_columns=used), features_of(stream)
    )
    retain = stream.filter(partial(_matches, values, False), input_columns=used)
    return Split(forget, retain.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER), chosen, request)


def _matches(values: set[tuple[Any, ...]], wanted: bool, *row: Any) -> bool:
    """Check whether the values of a row are among `values` (or, if not `wanted`, that they are not)."""
    return (row in values) == wanted


def read_into_memory(stream: datasets.IterableDataset, features: datasets.Features | None = None) -> datasets.Dataset:
    """Read all rows of a stream into memory as they are stored, images undecoded.

    Args:
        features: columns of the result. Default None: the columns of the stream.
    """
    import datasets
    import pyarrow as pa

    features = features or features_of(stream)
    tables = [part.cast(features.arrow_schema) for part in _arrow_parts(stream)]
    whole = pa.concat_tables(tables) if tables else features.arrow_schema.empty_table()
    return datasets.Dataset(datasets.table.InMemoryTable(whole), info=datasets.DatasetInfo(features=features))


def features_of(stream: datasets.IterableDataset) -> datasets.Features:
    """Return the columns of a stream. They are read from its first row if its files do not declare them."""
    import datasets

    if stream.features is not None:
        return stream.features
    return datasets.Features.from_arrow_schema(next(_arrow_parts(stream.take(1))).schema)


def _arrow_parts(stream: datasets.IterableDataset) -> Iterator[Any]:
    return stream.with_format("arrow").iter(batch_size=PART_ROWS)

"""The data sets of a run: loaded as tables, or as streams, of which only the rows to forget and to measure on are held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import ForgetRequest, Split

if TYPE_CHECKING:
    import datasets

    from .run import RunArguments

SHUFFLE_BUFFER = 1_000  # rows of a stream that are shuffled at a time, beside the order of its files
READ_AT_ONCE = 1_000


def load_splits(
    run: RunArguments, validate: bool = False
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, datasets.Dataset | None]:
    """Training and test split, cut to `train_rows` and `test_rows`, and with `validate` a held-out split for the stop.

    With `streaming` the training split is a stream.
    """
    if run.streaming:
        check_streaming(run)
    if run.dataset == "digits":
        from .training import load_digits

        loaded: Mapping[str, Any] = load_digits()
    else:
        from datasets import load_dataset

        from .hub.pins import pinned

        run.dataset, run.dataset_revision = pinned(run.dataset, run.dataset_revision, "dataset")
        loaded = load_dataset(run.dataset, run.dataset_config, revision=run.dataset_revision, streaming=run.streaming)
    named = None if run.validation_split == "none" else run.validation_split
    asked = {"train_split": run.train_split, "test_split": run.test_split, "validation_split": named}
    for argument, split in asked.items():
        if split is not None and split not in loaded:
            raise ValueError(f"`{argument}={split!r}` is not in the data set; it has {', '.join(loaded)}.")
    train = loaded[run.train_split]
    test = loaded[run.test_split] if run.test_split else None
    if run.streaming and test is not None:
        test = held(test if run.test_rows is None else test.shuffle(seed=0, buffer_size=10_000).take(run.test_rows))
    if run.train_rows:
        train = train.shuffle(seed=0).select(range(min(run.train_rows, len(train))))
    if run.test_rows and test is not None:
        test = test.shuffle(seed=0).select(range(min(run.test_rows, len(test))))
    if not validate or run.validation_split == "none":
        return train, test, None
    if named is not None:
        return train, test, held(loaded[named]) if run.streaming else loaded[named]
    if test is None:
        return train, None, None
    shuffled, fifth = test.shuffle(seed=1), len(test) // 5
    return train, shuffled.select(range(fifth, len(test))), shuffled.select(range(fifth))


def check_streaming(run: RunArguments) -> None:
    """Raise ValueError for what a stream cannot do, before any of it is read."""
    if run.dataset == "digits":
        raise ValueError("`streaming`: scikit-learn's digits are in memory already. Leave it out.")
    impossible = {
        "train_rows": (run.train_rows, "a stream has no first rows of a shuffle: each epoch has its own order"),
        "retrain": (run.retrain, "passes over the retain set, whose length must be known"),
        "model_config": (run.model_config, "trains an original on rows whose number must be known"),
        "forget_fraction": (run.forget_fraction, "is a share of rows whose number must be known"),
        "forget_ids_file": (
            None if run.forget_column else run.forget_ids_file,
            "without `forget_column` holds row numbers, which the rows of a stream do not have",
        ),
    }
    for name, (given, reason) in impossible.items():
        if given:
            raise ValueError(f"`streaming` and `{name}` do not go together: `{name}` {reason}. Leave one of them out.")


def split_stream(request: ForgetRequest, stream: datasets.IterableDataset, seed: int = 0) -> Split:
    """Split a stream: the rows to forget in memory, undecoded, and the others as a shuffled stream.

    It is read twice, first the columns that the request names, then the rows to forget. Each row is told by its own values
    (`label`, and `column` with `values`), because a stream that is shuffled does not number its rows.

    Raises:
        ValueError: as `ForgetRequest.split`, or a criterion that is no value of the row itself.
    """
    by_number = (request.indices, request.fraction, None if request.column else request.ids_file)
    if any(c is not None for c in (*by_number, request.predicate)) or request.union or request.intersection:
        raise ValueError("Rows of a stream are selected by `label` and by `column` with `values`, and by nothing else.")
    named = {"label_column": request.label_column if request.label is not None else None, "column": request.column}
    used = [name for name in named.values() if name is not None]
    for argument, name in named.items():
        if name is not None and name not in features_of(stream):
            raise ValueError(
                f"`{argument}={name!r}` is not a column of the data set; it has {', '.join(features_of(stream))}."
            )
    seen = held(stream.select_columns(used))
    mask = request.mask(seen)
    chosen = np.flatnonzero(mask)
    request.check_selection(len(chosen), len(mask))
    columns = seen.with_format("arrow")[:].take(chosen).to_pydict()
    values = set(zip(*(columns[name] for name in used), strict=True))
    forget = held(stream.decode(False).filter(Holds(values), input_columns=used), features_of(stream))
    retain = stream.filter(Holds(values, inside=False), input_columns=used)
    return Split(forget, retain.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER), chosen, request)


class Holds:
    """Whether a row's values in some columns are among, or not among, those of the rows to forget; may be sent to a worker."""

    def __init__(self, values: set[tuple[Any, ...]], inside: bool = True) -> None:
        self.values, self.inside = values, inside

    def __call__(self, *row: Any) -> bool:
        return (row in self.values) == self.inside


def held(stream: datasets.IterableDataset, features: datasets.Features | None = None) -> datasets.Dataset:
    """All rows of a stream in memory, as they are stored: images are not decoded. `features`: of the result, if others."""
    import datasets
    import pyarrow as pa

    features = features or features_of(stream)
    tables = [part.cast(features.arrow_schema) for part in _arrow_parts(stream)]
    whole = pa.concat_tables(tables) if tables else features.arrow_schema.empty_table()
    return datasets.Dataset(datasets.table.InMemoryTable(whole), info=datasets.DatasetInfo(features=features))


def features_of(stream: datasets.IterableDataset) -> datasets.Features:
    """The columns of a stream, read off its first row where its files do not tell."""
    import datasets

    if stream.features is not None:
        return stream.features
    return datasets.Features.from_arrow_schema(next(_arrow_parts(stream.take(1))).schema)


def _arrow_parts(stream: datasets.IterableDataset) -> Iterator[Any]:
    return stream.with_format("arrow").iter(batch_size=READ_AT_ONCE)

"""Load the data sets of a run: as tables, or as streams of which only the rows to forget and to measure on are stored."""

import logging
from collections.abc import Mapping
from typing import Any

import datasets

from ..data.class_names import check_numbers
from ..data.loading import DIGITS, load_digits, load_source
from ..data.overlap import seen_rows
from ..data.streams import read_into_memory
from ..models.processor import Processor
from ..training.checks import check_labels
from ..utils.hub_names import pinned
from ..utils.loading_errors import loading, located
from .run_arguments import RunArguments

logger = logging.getLogger(__name__)


def load_splits(
    run: RunArguments, validate: bool = False
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, datasets.Dataset | None]:
    """Return the training split, the test split and, with `validate`, a held-out split that decides when to stop.

    The first two are cut to `train_rows` and `test_rows`. With `streaming` the training split is a stream.

    Raises:
        ValueError: a split is not in the data set, or a stream cannot do what the arguments ask for.
    """
    if run.streaming:
        check_streaming(run)
    if run.dataset == DIGITS:
        loaded: Mapping[str, Any] = load_digits()
    else:
        source = located(run.dataset, "dataset")
        run.dataset, run.dataset_revision = pinned(source, run.dataset_revision, "dataset")
        loaded = load_source(run.dataset, "dataset", run.dataset_config, run.dataset_revision, run.streaming)
    named = None if run.validation_split == "none" else run.validation_split
    asked = {"train_split": run.train_split, "test_split": run.test_split, "validation_split": named}
    for argument, split in asked.items():
        if argument != "train_split" and split == run.train_split:
            raise ValueError(_no_unseen_rows(argument, split, "is the training split"))
        if split is not None and split not in loaded:
            hint = "" if argument == "train_split" else f" Name one of these, or pass --{argument} none."
            raise ValueError(f"`{argument}={split!r}` is not in the data set; it has {', '.join(loaded)}.{hint}")
        if split is not None and not run.streaming:
            _check_prepared(loaded[split], f"`{argument}={split!r}`")
    train = _draw(loaded[run.train_split], run.train_rows)
    test = loaded[run.test_split] if run.test_split else None
    if test is not None:
        if run.streaming:
            rows = run.test_rows
            with loading("dataset", run.dataset):
                test = read_into_memory(test if rows is None else test.shuffle(seed=0, buffer_size=10_000).take(rows))
        test = _draw(test, run.test_rows)
    if not validate or run.validation_split == "none":
        return train, test, None
    if named is not None:
        return train, test, read_into_memory(loaded[named]) if run.streaming else loaded[named]
    if test is None or len(test) < 5:
        return train, test, None
    shuffled, fifth = test.shuffle(seed=1), len(test) // 5
    return train, shuffled.select(range(fifth, len(test))), shuffled.select(range(fifth))


def check_split_labels(run: RunArguments, processor: Processor, splits: Mapping[str, Any]) -> None:
    """Raise ValueError if labels of a split, by the name of its argument, or numbers in `forget_class` do not fit the model."""
    for argument, rows in splits.items():
        if rows is not None:
            aligned = processor.align(rows, argument, quiet=True)
            check_labels(processor, aligned, argument, needed=argument != "train_split")
    check_numbers(run.forget_class, splits["train_split"], run.label_column, processor.label2id, "forget_class")


def check_unseen(run: RunArguments, processor: Processor, trained: Any, splits: Mapping[str, Any]) -> None:
    """Warn about rows of a split, by the name of its argument, that are also in `trained`, the rows of the training split.

    Raises:
        ValueError: all rows of a split are.
    """
    for argument, rows in splits.items():
        columns = () if rows is None else processor.inputs_among(rows.column_names)
        count, exact = seen_rows(rows, trained, columns) if columns and len(rows) else (0, True)
        name = str(getattr(run, argument) or run.test_split)
        if count == len(rows or ()) > 0 and exact:
            raise ValueError(
                _no_unseen_rows(argument, name, f"holds {count:,} rows, and all are in the training split")
            )
        if count:
            share = f"{'' if exact else 'about '}{count:,} of {len(rows):,}"
            logger.warning("`%s=%r`: %s rows have an identical copy in the training split.", argument, name, share)


def _no_unseen_rows(argument: str, split: str, what: str) -> str:
    return (
        f"`{argument}={split!r}` {what}. It must hold rows that the model has not seen, because targets, test accuracy and attacks "
        f"compare with them. Name another split, or pass --{argument} none."
    )


def _check_prepared(rows: datasets.Dataset, what: str) -> None:
    """Raise ValueError if a column of prepared inputs is empty. It is where only another split has that column."""
    for name in ("input_ids", "pixel_values"):
        if name in rows.column_names and len(rows) and rows.data.column(name).null_count == len(rows):
            raise ValueError(
                f"{what}: column '{name}' is empty. Prepare all splits in the same way, or remove that column from the data set."
            )


def _draw(rows: Any, number: int | None) -> Any:
    """At most `number` rows, drawn with seed 0; all of them if it is None."""
    return rows if number is None else rows.shuffle(seed=0).select(range(min(number, len(rows))))


def check_streaming(run: RunArguments) -> None:
    """Raise ValueError if `run` asks for something that a stream cannot do, before any of it is read."""
    if run.dataset == DIGITS:
        raise ValueError("`streaming`: scikit-learn's digits are in memory already. Leave it out.")
    row_numbers = None if run.forget_column else run.forget_ids_file
    impossible = {
        "train_rows": (run.train_rows, "draws from all rows, and a stream does not hold them"),
        "retrain": (run.retrain, "passes over the retain set, whose length must be known"),
        "model_config": (run.model_config, "trains an original on rows whose number must be known"),
        "forget_fraction": (run.forget_fraction, "is a share of rows whose number must be known"),
        "forget_ids_file": (
            row_numbers,
            "without `forget_column` holds row numbers, and the rows of a stream have none",
        ),
    }
    for name, (given, reason) in impossible.items():
        if given:
            raise ValueError(f"`streaming` and `{name}` do not go together: `{name}` {reason}. Leave one of them out.")

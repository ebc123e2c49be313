"""The data sets of a run: loaded as tables, or as streams, of which only the rows to forget and to measure on are held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
from datasets import load_dataset

from ..data.loading import load_digits
from ..data.streams import read_into_memory
from ..utils.hub_names import pinned
from .run_arguments import RunArguments


def load_splits(
    run: RunArguments, validate: bool = False
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, datasets.Dataset | None]:
    """Training and test split, cut to `train_rows` and `test_rows`, and with `validate` a held-out split for the stop.

    With `streaming` the training split is a stream.
    """
    if run.streaming:
        check_streaming(run)
    if run.dataset == "digits":
        loaded: Mapping[str, Any] = load_digits()
    else:
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
        test = read_into_memory(
            test if run.test_rows is None else test.shuffle(seed=0, buffer_size=10_000).take(run.test_rows)
        )
    if run.train_rows:
        train = train.shuffle(seed=0).select(range(min(run.train_rows, len(train))))
    if run.test_rows and test is not None:
        test = test.shuffle(seed=0).select(range(min(run.test_rows, len(test))))
    if not validate or run.validation_split == "none":
        return train, test, None
    if named is not None:
        return train, test, read_into_memory(loaded[named]) if run.streaming else loaded[named]
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

"""Which rows are drawn, and in which order. Every draw depends on (seed, epoch, position) alone."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .bad_rows import read_rows, read_stream

READ_AT_ONCE = 64  # rows

Key = tuple[int, int, int]  # epoch, position in its order, row


class EpochSampler:
    """Yields (epoch, position, index) for every row, in an order drawn from (seed, epoch), or in the given order.

    After `cut` the order is laid out for several processes: each process in turn has its part of every global batch.
    accelerate needs equal batches in every process. Shorter parts are padded with keys at position −1 − p, and
    `UnlearningDataset` drops them.

    Args:
        size: number of rows.
        seed: seed of the order. Default 0.
        shuffle: draw the order. Default True; False keeps the given order.
        strata: a whole number for each row, (rows,). Every stretch of the order then holds each stratum in about its share of
            the whole, so that a batch lacks only strata that are too rare for it. Default None: no strata.
    """

    def __init__(self, size: int, seed: int = 0, shuffle: bool = True, strata: np.ndarray | None = None) -> None:
        self.size, self.seed, self.shuffle, self.strata, self.epoch = size, seed, shuffle, strata, 0
        self.cut(size)

    def cut(self, rows: int, processes: int = 1) -> None:
        """Divide global batches of `rows` among `processes`."""
        self.rows, self.processes = rows, processes

    def __len__(self) -> int:
        if self.processes == 1:
            return self.size
        return -(-self.size // self.rows) * -(-self.rows // self.processes) * self.processes

    def __iter__(self) -> Iterator[Key]:
        if self.processes == 1:
            yield from self._keys()
            return
        slots, keys = -(-self.rows // self.processes), self._keys()
        while batch := list(islice(keys, self.rows)):
            for process in range(self.processes):
                first, last = (len(batch) * p // self.processes for p in (process, process + 1))
                epoch, position, index = batch[min(first, len(batch) - 1)]
                yield from batch[first:last]
                yield from [(epoch, -1 - position, index)] * (slots - (last - first))

    def _keys(self) -> Iterator[Key]:
        order = np.arange(self.size)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(self.size)
            if self.strata is not None:
                order = order[np.argsort(_spread(self.strata[order], rng), kind="stable")]
        for start in range(0, self.size, 4096):  # One list of all rows would take five times the memory of the array.
            for position, index in enumerate(order[start : start + 4096].tolist(), start):
                yield self.epoch, position, index


def _spread(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return places (rows,) in [0, 1) that spread the rows of each stratum evenly from a random start."""
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    by_stratum = np.argsort(stratum, kind="stable")
    rank = np.empty(len(strata), dtype=np.int64)
    rank[by_stratum] = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (rank + rng.random(len(counts))[stratum]) / counts[stratum]


def drawn_rows(size: int, count: int, seed: int) -> np.ndarray:
    """Draw at most `count` of the row numbers 0..size-1 by seed, and return them in ascending order."""
    if size <= count:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])


class DrawnRows(Sequence[Any]):
    """Some rows of a data set. Each is read when it is used, because thousands of decoded images would fill the memory."""

    def __init__(self, dataset: Any, chosen: np.ndarray) -> None:
        self.dataset, self.chosen = dataset, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return DrawnRows(self.dataset, self.chosen[index])
        return self.dataset[int(self.chosen[index])]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        return read_rows(self.dataset, self.chosen[list(indices)].tolist())

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), READ_AT_ONCE):
            yield from read_rows(self.dataset, self.chosen[start : start + READ_AT_ONCE].tolist())


def has_transform(rows: Any) -> bool:
    """Check whether a `datasets.Dataset` applies a function of the user (`with_transform`) to the rows that it reads."""
    while isinstance(rows, DrawnRows):
        rows = rows.dataset
    form = getattr(rows, "format", None)
    return isinstance(form, Mapping) and form.get("type") == "custom"


def draw(dataset: Any, count: int, seed: int, argument: str = "retain_dataset") -> Sequence[Any]:
    """Draw at most `count` rows by seed, in the order of the data set. A stream gives the first rows of its first epoch.

    `argument` is the name of a stream in errors.
    """
    if hasattr(dataset, "__len__"):
        return DrawnRows(dataset, drawn_rows(len(dataset), count, seed))
    epoch = getattr(dataset, "epoch", None)
    try:
        if epoch is not None:
            dataset.set_epoch(0)
        return list(islice(read_stream(dataset, argument), count))
    finally:
        if epoch is not None:
            dataset.set_epoch(epoch)  # Another reader of the stream is in this epoch.

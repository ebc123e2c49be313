"""How forget and retain rows are drawn together.

`UnlearningDataset` with `EpochSampler` serve training samples whose random draws depend on (seed, epoch, position) only, so
that a resumed run or another number of processes sees the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info


class EpochSampler:
    """Yields (epoch, position, index) for every row, in an order drawn from (seed, epoch), or the given order.

    With `strata` (rows,) of whole numbers the order is stratified: every stretch of it holds each stratum in about the share
    that it has in the whole, so that a batch lacks only what is too rare for it.
    """

    def __init__(self, size: int, seed: int = 0, shuffle: bool = True, strata: np.ndarray | None = None) -> None:
        self.size, self.seed, self.shuffle, self.strata, self.epoch = size, seed, shuffle, strata, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        order = np.arange(self.size)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(self.size)
            if self.strata is not None:
                order = order[np.argsort(_spread(self.strata[order], rng), kind="stable")]
        for position, index in enumerate(order.tolist()):
            yield self.epoch, position, index


def _spread(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places (rows,) in [0, 1) that spread the rows of each stratum evenly, from a random start."""
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    by_stratum = np.argsort(stratum, kind="stable")
    rank = np.empty(len(strata), dtype=np.int64)
    rank[by_stratum] = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (rank + rng.random(len(counts))[stratum]) / counts[stratum]


def drawn_rows(size: int, count: int, seed: int) -> np.ndarray:
    """At most `count` of the row numbers 0..size-1, drawn by seed, ascending."""
    if size <= count:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])


class Drawn(Sequence[Any]):
    """Some rows of a data set, each read when it is asked for: thousands of decoded images fill a memory."""

    def __init__(self, dataset: Any, chosen: np.ndarray) -> None:
        self.dataset, self.chosen = dataset, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Drawn(self.dataset, self.chosen[index])
        return self.dataset[int(self.chosen[index])]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        return read_rows(self.dataset, self.chosen[list(indices)].tolist())


def read_rows(rows: Any, indices: list[int]) -> Sequence[Any]:
    """Several rows, at once where the data set can."""
    return rows.__getitems__(indices) if hasattr(rows, "__getitems__") else [rows[i] for i in indices]


def draw(dataset: Any, count: int, seed: int) -> Sequence[Any]:
    """At most `count` rows, drawn by seed and in the data set's order; of a stream, its first."""
    if not hasattr(dataset, "__len__"):
        return [row for row, _ in zip(dataset, range(count), strict=False)]
    return Drawn(dataset, drawn_rows(len(dataset), count, seed))


class PreparedRows:
    """Rows of a data set as model inputs, each processed once and kept in memory while `cache_bytes` has room."""

    def __init__(
        self,
        rows: Any,
        prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
        name: str = "dataset",
        cache_bytes: int = 64 * 2**20,
    ) -> None:
        self.rows, self.prepare, self.name = rows, prepare, name
        self._cache: dict[int, dict[str, Any]] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.many([index])[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), 64):
            yield from self.many(range(start, min(start + 64, len(self))))

    def many(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once: a data set reads a batch several times faster than its rows one by one."""
        missing = sorted({i for i in indices if i not in self._cache})
        raw = read_rows(self.rows, missing) if missing else ()
        found = {i: self._prepared(i, row) for i, row in zip(missing, raw, strict=True)}
        return [found[i] if i in found else self._cache[i] for i in indices]

    def _prepared(self, index: int, raw: Any) -> dict[str, Any]:
        try:
            row = self.prepare(raw)
        except ValueError as error:
            raise ValueError(f"`{self.name}`, row {index}: {error}") from error
        size = sum(getattr(v, "nbytes", 64) for v in row.values())
        if size <= self._room:
            self._room -= size
            self._cache[index] = row
        return row


class UnlearningDataset:
    """Training samples: a row of the forget set, rows of the retain set, or both, and the seed of their random draws.

    The first side that a method needs drives the epoch (forget, if it needs that); retain rows for a forget row are drawn
    from (seed, epoch, position). A retain stream is read in order, row `position * retain_per_forget` onwards.

    Items are `{"forget": [row], "retain": [row, ...], "index": int, "seed": int}`, sides that are not needed left out; with
    `groups` (rows of the retain set,), `group` too: those of its retain rows.
    """

    def __init__(
        self,
        forget: Any | None,
        retain: Any | None,
        prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
        *,
        retain_per_forget: int = 1,
        seed: int = 0,
        groups: np.ndarray | None = None,
    ) -> None:
        if forget is None and retain is None:
            raise ValueError("`UnlearningDataset` needs `forget`, `retain` or both.")
        self.streaming = retain is not None and not hasattr(retain, "__len__")
        self.forget = None if forget is None else PreparedRows(forget, prepare, "forget_dataset")
        self.retain = retain if retain is None or self.streaming else PreparedRows(retain, prepare, "retain_dataset")
        self.prepare = prepare
        self.retain_per_forget, self.seed, self.groups = retain_per_forget, seed, groups
        if self.streaming and forget is None:
            raise ValueError(
                "`retain_dataset` is a stream, and this method passes over the retain set, so its length must be known. "
                "Load it without `streaming=True`."
            )
        self._stream: tuple[int, int, Iterator[Any]] | None = None  # epoch, rows consumed, iterator

    def __len__(self) -> int:
        return len(self.forget if self.forget is not None else self.retain)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch of keys, each side read at once."""
        items: list[dict[str, Any]] = [{"index": i, "seed": sample_seed(self.seed, epoch, i)} for epoch, _, i in keys]
        if self.forget is not None:
            for item, row in zip(items, self.forget.many([i for _, _, i in keys]), strict=True):
                item["forget"] = [row]
        if self.streaming:
            k = self.retain_per_forget
            for item, (epoch, position, _) in zip(items, keys, strict=True):
                item["retain"] = [self.prepare(row) for row in self._stream_rows(epoch, position * k, k)]
        elif self.retain is not None:
            drawn = [self._retain_indices(*key) for key in keys]
            rows = iter(self.retain.many([i for draw in drawn for i in draw]))
            for item, draw in zip(items, drawn, strict=True):
                item["retain"] = [next(rows) for _ in draw]
                if self.groups is not None:
                    item["group"] = [int(self.groups[i]) for i in draw]
        return items

    def _retain_indices(self, epoch: int, position: int, index: int) -> list[int]:
        if self.forget is None:
            return [index]
        drawn = np.random.default_rng((self.seed, epoch, position))
        return drawn.integers(len(self.retain), size=self.retain_per_forget).tolist()  # type: ignore[arg-type]

    def _stream_rows(self, epoch: int, start: int, count: int) -> list[Any]:
        """Rows start..start+count of the stream's pass number `epoch`, wrapping around at its end."""
        if self._stream is None or self._stream[0] != epoch or self._stream[1] > start:
            if hasattr(self.retain, "set_epoch"):
                self.retain.set_epoch(epoch)  # type: ignore[union-attr]
            self._stream = (epoch, 0, self._endless())
        _, consumed, rows = self._stream
        for _ in range(start - consumed):
            next(rows)
        out = [next(rows) for _ in range(count)]
        self._stream = (epoch, start + count, rows)
        return out

    def _endless(self) -> Iterator[Any]:
        while True:
            empty = True
            for row in _whole(self.retain):
                empty = False
                yield row
            if empty:
                raise ValueError("`retain_dataset` is an empty stream.")


def _whole(stream: Any) -> Iterator[Any]:
    """All rows of a stream, in a worker of the data loader too, where `datasets` would give each one its own shards."""
    if get_worker_info() is None or not hasattr(stream, "iter"):
        yield from stream
        return
    for batch in stream.iter(batch_size=1):
        yield {name: values[0] for name, values in batch.items()}


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed for one sample in one epoch, the same in every process and after a resume."""
    digest = hashlib.blake2b(np.asarray([seed, epoch, index], dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

"""Training samples of forget and retain rows.

The random draws of `UnlearningDataset` and `EpochSampler` depend on (seed, epoch, position) only, so that a resumed run or
another number of processes sees the same samples. `share_out` computes the weight of each micro-batch, so that the step is the
same however its rows are divided into processes and micro-batches.
"""

import copy
import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from .bad_rows import naming_row, read_named, read_stream
from .sampling import READ_AT_ONCE, Key, has_transform

ROW_BYTES, TENSOR_BYTES = 256, 640  # memory of a dictionary and of a tensor, without its numbers


class PreparedRows:
    """Rows of a data set as model inputs. Each is prepared once and kept in memory while there is room.

    Nothing is kept if the data set has a transform of its own (`with_transform`), because it may be random: each time a row is
    read it is another view, and a resumed run does not repeat the draws.

    Args:
        rows: the data set.
        prepare: turns a row into model inputs.
        name: name of the argument that holds the data set, for errors. Default `"dataset"`.
        cache_bytes: memory for prepared rows. Default 64 MiB.

    Raises:
        ValueError: `prepare` refused a row. The message names the row.
    """

    def __init__(
        self,
        rows: Any,
        prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
        name: str = "dataset",
        cache_bytes: int = 64 * 2**20,
    ) -> None:
        self.rows, self.prepare, self.name = rows, prepare, name
        self._cache: dict[int, dict[str, Any]] = {}
        self._size = self._room = 0 if has_transform(rows) else cache_bytes

    def __getstate__(self) -> dict[str, Any]:
        """Return what a data loader sends to a worker: everything but the rows that are kept in memory."""
        return {**vars(self), "_cache": {}, "_room": self._size}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.many([index])[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), READ_AT_ONCE):
            yield from self.many(range(start, min(start + READ_AT_ONCE, len(self))))

    def many(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows, read in one go: a data set reads a batch several times faster than single rows."""
        missing = sorted({i for i in indices if i not in self._cache})
        raw = read_named(self.rows, missing, self.name) if missing else ()
        found = {i: self._prepared(i, row) for i, row in zip(missing, raw, strict=True)}
        return [found[i] if i in found else self._cache[i] for i in indices]

    __getitems__ = many  # the name by which `torch.utils.data` asks for a batch

    def _prepared(self, index: int, raw: Any) -> dict[str, Any]:
        with naming_row(self.name, index):
            row = self.prepare(raw)
        size = ROW_BYTES + sum(TENSOR_BYTES + getattr(v, "nbytes", 0) for v in row.values())
        if size <= self._room:
            self._room -= size
            self._cache[index] = row
        return row


class UnlearningDataset:
    """Training samples: a row of the forget set, rows of the retain set, or both.

    An epoch is one pass over the forget set, or over the retain set if there is no forget set. The retain rows of a forget row
    are drawn from (seed, epoch, position). A retain stream is read in order, from row `position * retain_per_forget` on.

    An item is `{"forget": [row], "retain": [row, ...], "index": int, "seed": int, "position": int}` without the sides that are
    not needed, and with `groups` also `"group": [int, ...]`, the groups of its retain rows. Padding keys (negative positions)
    are dropped; if a batch holds nothing else, one of them is kept, and it has no weight.

    Args:
        forget: the forget set, or None.
        retain: the retain set or a stream of it, or None.
        prepare: turns a row into model inputs.
        retain_per_forget: retain rows for each forget row. Default 1.
        seed: seed of all draws. Default 0.
        groups: group of each row of the retain set, (rows,). Default None.

    Raises:
        ValueError: there is no set at all, or the retain set is a stream and there is no forget set.
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
        self._own_stream = False
        self._stream: tuple[int, int, Iterator[Any]] | None = None  # epoch, rows consumed, iterator

    def __getstate__(self) -> dict[str, Any]:
        """Return what a data loader sends to a worker, which then reads a stream by itself, from the start."""
        return {**vars(self), "_stream": None}

    def __len__(self) -> int:
        return len(self.forget if self.forget is not None else self.retain)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return the samples of a batch of keys. Each side is read in one go."""
        keys = [key for key in keys if key[1] >= 0] or keys[:1]
        items: list[dict[str, Any]]
        items = [{"index": i, "seed": sample_seed(self.seed, epoch, i), "position": p} for epoch, p, i in keys]
        keys = [(epoch, max(p, -1 - p), i) for epoch, p, i in keys]
        if self.forget is not None:
            for item, row in zip(items, self.forget.many([i for _, _, i in keys]), strict=True):
                item["forget"] = [row]
        if self.streaming:
            k = self.retain_per_forget
            for item, (epoch, position, _) in zip(items, keys, strict=True):
                item["retain"] = self._prepared_stream(epoch, position * k, k)
        elif self.retain is not None:
            drawn = [[i] if self.forget is None else self._drawn(epoch, position) for epoch, position, i in keys]
            rows = iter(self.retain.many([i for draw in drawn for i in draw]))
            for item, draw in zip(items, drawn, strict=True):
                item["retain"] = [next(rows) for _ in draw]
                if self.groups is not None:
                    item["group"] = [int(self.groups[i]) for i in draw]
        return items

    def _drawn(self, epoch: int, position: int) -> list[int]:
        count: int = len(self.retain)  # type: ignore[arg-type]
        return [_draw(self.seed, epoch, position, k) % count for k in range(self.retain_per_forget)]

    def _prepared_stream(self, epoch: int, start: int, count: int) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for row in self._stream_rows(epoch, start, count):
            with naming_row("retain_dataset", start + len(out)):
                out.append(self.prepare(row))
        return out

    def _stream_rows(self, epoch: int, start: int, count: int) -> list[Any]:
        """Return `count` rows of the stream in its order of `epoch`, from row `start` on. After the last row comes the first."""
        if self._stream is None or self._stream[0] != epoch or self._stream[1] > start:
            if get_worker_info() is not None and not self._own_stream:
                # Copies share the epoch counter: a faster worker would advance it for the others, so each takes its own copy.
                self.retain, self._own_stream = copy.deepcopy(self.retain), True
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


class PairCollator:
    """Collates items of `UnlearningDataset` into a batch: `forget`, `retain`, `index`, `seed`, `positions` and `group`.

    Other items are raw rows of an evaluation, which are prepared and collated. The collator holds nothing but the two functions,
    because a data loader sends a copy to each worker.

    Args:
        flat: collates prepared rows of one data set.
        prepare: turns a raw row into model inputs.
    """

    def __init__(self, flat: Callable[[list[Any]], Any], prepare: Callable[[Any], Any]) -> None:
        self.flat, self.prepare = flat, prepare

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not {"seed", "index"} <= items[0].keys() or not {"forget", "retain"} & items[0].keys():
            return self.flat([self.prepare(item) for item in items])
        batch: dict[str, Any] = {k: torch.tensor([item[k] for item in items]) for k in ("index", "seed")}
        batch["positions"] = [item["position"] for item in items]
        if "group" in items[0]:
            batch["group"] = torch.tensor([g for item in items for g in item["group"]])
        sides: dict[str, list[Any]]
        sides = {s: [row for item in items for row in item[s]] for s in ("forget", "retain") if s in items[0]}
        if len(sides) == 1:
            return batch | {side: dict(self.flat(rows)) for side, rows in sides.items()}
        # Both sides are padded to one length, so that a method can join them in one forward pass.
        joint = dict(self.flat([row for rows in sides.values() for row in rows]))
        cut = len(sides["forget"])
        for side, part in (("forget", slice(cut)), ("retain", slice(cut, None))):
            batch[side] = {k: v[part] for k, v in joint.items()}
            if "labels" not in joint and all("labels" in row for row in sides[side]):
                batch[side]["labels"] = torch.stack([torch.as_tensor(row["labels"]) for row in sides[side]])
        return batch


def share_out(batches: Sequence[dict[str, Any]], size: int, rows: int) -> None:
    """Add to each micro-batch its `share` of the step's rows, and the `places` of its rows among them.

    The shares of all micro-batches in all processes add up to 1, so that the means of the micro-batches, weighted by their
    shares, give the mean over the step.

    Args:
        batches: the micro-batches of this process, with their `positions`.
        size: number of rows in an epoch.
        rows: number of rows that a micro-batch has in all processes together.
    """
    starts = [max(b["positions"][0], -1 - b["positions"][0]) // rows * rows for b in batches]
    total = sum(min(rows, size - start) for start in starts)
    for batch in batches:
        real = [p for p in batch["positions"] if p >= 0]
        batch["share"] = len(real) / total
        batch["places"] = torch.tensor([p - starts[0] for p in real], dtype=torch.long)


def _whole(stream: Any) -> Iterator[Any]:
    """Yield all rows of a stream, also in a worker of a data loader, to which `datasets` would give some shards only."""
    if get_worker_info() is None or not hasattr(stream, "iter"):
        yield from read_stream(stream, "retain_dataset")
        return
    for batch in read_stream(stream.iter(batch_size=1), "retain_dataset", stream):
        yield {name: values[0] for name, values in batch.items()}


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return a 63-bit seed for one sample in one epoch, the same in every process and after a resume."""
    return _draw(seed, epoch, index) >> 1


def _draw(*numbers: int) -> int:
    """Draw 64 bits that depend on `numbers` only. A generator for each sample would take far longer."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little")

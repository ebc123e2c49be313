"""Tables of model outputs, one row for each row of a data set: in memory, or in an unnamed file if they are large."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEMORY_BYTES = 2**28
CHUNK = 2**22  # values


def new_table(rows: int, columns: int, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return zeros (rows, columns). Above 256 MiB they lie in a file that is mapped into memory.

    The file is in `folder` (by default, where temporary files go) and has no name, so that nothing is left of it however the
    process ends.
    """
    size = dtype.itemsize * rows * columns
    if size <= MEMORY_BYTES:
        return torch.zeros(rows, columns, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(rows, columns)


def chunks(*tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of each table, so that a computation on all rows does not need as much memory again."""
    return zip(*(t.split(chunk_rows(t)) for t in tables), strict=True)


def chunk_rows(table: Tensor) -> int:
    """Return the number of rows of `table` in one chunk."""
    return max(1, CHUNK // max(1, table.shape[-1]))


class Collector:
    """Collects batches (B, columns) into one table. If the number of rows is unknown, the table stays in memory.

    Batches come in the order of the rows, or all with the places of their rows in the table.
    """

    def __init__(self, rows: int | None, folder: str | Path | None = None) -> None:
        self.rows, self.folder, self.filled = rows, folder, 0
        self._parts: list[Tensor] = []
        self._places: list[Tensor] = []  # of the rows of each part

    def add(self, batch: Tensor, places: Tensor | None = None) -> None:
        if places is None:
            places = torch.arange(self.filled, self.filled + len(batch))
        self.filled += len(batch)
        if self.rows is None:
            self._parts.append(batch.float().cpu())
            self._places.append(places)
            return
        if not self._parts:
            self._parts = [new_table(self.rows, batch.shape[-1], self.folder)]
        self._parts[0][places] = batch.float().cpu()

    def table(self, columns: int = 0) -> Tensor:
        """Return all batches, (rows added, columns), in fp32 on the CPU. `columns` counts only if there was no batch."""
        if not self._parts:
            return torch.zeros(0, columns)
        return joined(self._parts, self._places) if self.rows is None else self._parts[0][: self.filled]


def joined(parts: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Join tensors whose rows have these places, (B,) each, in the whole."""
    return torch.cat(list(parts))[torch.cat(list(places)).argsort()]

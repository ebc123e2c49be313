"""Outputs of a model, a row for each row of a data set: in memory, or in a file without a name where they are large."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEMORY_BYTES = 2**28
CHUNK = 2**22  # values


def new_table(rows: int, columns: int, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros (rows, columns); above 256 MiB on disk, mapped into memory.

    That file lies in `folder` (by default where temporary files go) without a name: whatever ends the process, nothing of it
    is left.
    """
    size = dtype.itemsize * rows * columns
    if size <= MEMORY_BYTES:
        return torch.zeros(rows, columns, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(rows, columns)


def chunks(*tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each table, few at a time, for what would need as much memory again."""
    return zip(*(t.split(chunk_rows(t)) for t in tables), strict=True)


def chunk_rows(table: Tensor) -> int:
    """How many rows of `table` are taken at once."""
    return max(1, CHUNK // max(1, table.shape[-1]))


class Collector:
    """Batches (B, columns) one after another as one table; where the number of rows is not known, in memory."""

    def __init__(self, rows: int | None, folder: str | Path | None = None) -> None:
        self.rows, self.folder, self.filled = rows, folder, 0
        self._parts: list[Tensor] = []

    def add(self, batch: Tensor) -> None:
        if self.rows is None:
            self._parts.append(batch.float().cpu())
            return
        if not self._parts:
            self._parts = [new_table(self.rows, batch.shape[-1], self.folder)]
        self._parts[0][self.filled : self.filled + len(batch)] = batch
        self.filled += len(batch)

    def table(self, columns: int = 0) -> Tensor:
        """(rows added, columns), fp32, on the CPU; `columns` where nothing was added."""
        if not self._parts:
            return torch.zeros(0, columns)
        return torch.cat(self._parts) if self.rows is None else self._parts[0][: self.filled]

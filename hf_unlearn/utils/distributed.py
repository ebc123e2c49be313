"""What several processes do together: share rows, add up sums, agree on a decision. Alone, each of these is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from torch import Tensor, nn

from .large_tensors import chunk_rows, chunks, new_table


def in_parallel() -> bool:
    """Whether several processes share the work."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def processes() -> int:
    """How many share the work."""
    return dist.get_world_size() if in_parallel() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """`tensor`, in place, summed over all processes; without gradient."""
    if in_parallel():
        dist.all_reduce(tensor)
    return tensor


def sums_over_processes(values: Sequence[float]) -> list[float]:
    """Each of `values` summed over all processes, in fp64."""
    return reduced(values, dist.ReduceOp.SUM) if in_parallel() else list(values)


def range_over_processes(low: float, high: float) -> tuple[float, float]:
    """The least `low` and the greatest `high` of all processes."""
    least, greatest = reduced([-low, high], dist.ReduceOp.MAX) if in_parallel() else (-low, high)
    return -least, greatest


def reduced(values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
    """Numbers of all processes combined, in fp64; every process gets the same bits."""
    tensor = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(tensor, op=how)
    return tensor.tolist()


def in_any_process(flag: bool) -> bool:
    """Whether `flag` holds in one process or more: all of them get the same answer."""
    return sums_over_processes([float(flag)])[0] > 0


def wait_for_all() -> None:
    """Until every process is here."""
    in_any_process(False)


def own_part(rows: int) -> range:
    """The numbers, out of 0..rows-1, of the rows that are this process's: consecutive, parts as even as they can be."""
    if not in_parallel():
        return range(rows)
    rank, processes = dist.get_rank(), dist.get_world_size()
    return range(rows * rank // processes, rows * (rank + 1) // processes)


def joined(part: Tensor, rows: int, folder: str | Path | None = None) -> Tensor:
    """What the processes hold of `own_part(rows)`, (own rows, columns) each, as one tensor (rows, columns), the same bits in all.

    A very large one lies in `folder` (`new_table`).
    """
    if not in_parallel():
        return part
    own, whole = own_part(rows), new_table(rows, part.shape[1], folder, part.dtype)
    for (piece,), start in zip(chunks(whole), count(0, chunk_rows(whole)), strict=False):
        first, last = (min(max(n, start), start + len(piece)) for n in (own.start, own.stop))
        piece[first - start : last - start] = part[first - own.start : last - own.start]
        piece.copy_(sum_over_processes(piece.to(_device())))
    return whole


def joined_outputs(
    logits: Tensor, labels: Tensor | None, rows: int, folder: str | Path | None = None
) -> tuple[Tensor, Tensor | None]:
    """Logits (rows, classes) and labels (rows,) from those of each process's `own_part(rows)`; labels None where one has none.

    Very large logits lie in `folder` (`new_table`).
    """
    whole = joined(logits, rows, folder)
    return whole, None if in_any_process(labels is None) else joined(labels[:, None], rows)[:, 0]  # type: ignore[index]


def together(own: list[Any]) -> list[Any]:
    """The lists of all processes, one after another."""
    if not in_parallel():
        return own
    lists: list[Any] = [None] * processes()
    dist.all_gather_object(lists, own)
    return [item for each in lists for item in each]


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """BatchNorm statistics as they are in the first process, whose model is saved: in training each has its own."""
    if in_parallel():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                held = buffer.to(_device())
                dist.broadcast(held, 0)
                buffer.copy_(held)


def real_rows(rows: int, loader: Any) -> int:
    """How many of the `rows` of this process's evaluation batch count: accelerate fills up the last ones with rows from the start.

    `loader` is the accelerator's `gradient_state`, which knows where in the data set the batch is.
    """
    if not in_parallel() or not loader.end_of_dataloader or loader.remainder <= 0:
        return rows
    return min(max(loader.remainder - dist.get_rank() * rows, 0), rows)


def _device() -> torch.device:
    """Where the process group wants its tensors."""
    return torch.device("cpu") if "gloo" in dist.get_backend() else PartialState().device

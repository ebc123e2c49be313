"""Operations over several processes: divide rows, add up sums, agree on a decision. In a single process each changes nothing."""

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
    """Check whether several processes share the work."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def processes() -> int:
    """Return the number of processes that share the work."""
    return dist.get_world_size() if in_parallel() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes, in place and without gradient, and return it."""
    if in_parallel():
        dist.all_reduce(tensor)
    return tensor


def sums_over_processes(values: Sequence[float]) -> list[float]:
    """Return each of `values` summed over all processes, in fp64."""
    return _reduced(values, dist.ReduceOp.SUM) if in_parallel() else list(values)


def range_over_processes(low: float, high: float) -> tuple[float, float]:
    """Return the smallest `low` and the largest `high` of all processes."""
    least, greatest = _reduced([-low, high], dist.ReduceOp.MAX) if in_parallel() else (-low, high)
    return -least, greatest


def _reduced(values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    """Combine numbers of all processes in fp64. Every process gets the same bits."""
    tensor = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(tensor, op=operation)
    return tensor.tolist()


def in_any_process(flag: bool) -> bool:
    """Check whether `flag` is true in at least one process. All processes get the same answer."""
    return sums_over_processes([float(flag)])[0] > 0


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    in_any_process(False)


def own_part(rows: int) -> range:
    """Return the numbers, out of 0..rows-1, of this process's rows: consecutive, and divided as evenly as possible."""
    if not in_parallel():
        return range(rows)
    rank, processes = dist.get_rank(), dist.get_world_size()
    return range(rows * rank // processes, rows * (rank + 1) // processes)


def filled_part(rows: int) -> list[int]:
    """Return the numbers of `own_part`, and row 0 after them until every process has as many: no process is without rows."""
    part = own_part(rows)
    return [*part, *[0] * (-(-rows // processes()) - len(part))]


def _joined(part: Tensor, rows: int, folder: str | Path | None = None) -> Tensor:
    """Join the parts (own rows, columns) that the processes hold of `own_part(rows)` into one table (rows, columns)."""
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
    """Join what each process knows of its `own_part(rows)`; every process gets the same bits.

    Args:
        logits: (own rows, classes).
        labels: (own rows,). None in one process makes them None in all.
        rows: number of rows in all processes together.
        folder: where a very large table of logits lies (`new_table`).

    Returns:
        Logits (rows, classes) and labels (rows,) or None.
    """
    whole = _joined(logits, rows, folder)
    return whole, None if in_any_process(labels is None) else _joined(labels[:, None], rows)[:, 0]  # type: ignore[index]


def together(own: list[Any]) -> list[Any]:
    """Return the lists of all processes, one after another."""
    if not in_parallel():
        return own
    lists: list[Any] = [None] * processes()
    dist.all_gather_object(lists, own)
    return [item for each in lists for item in each]


def rows_together(own: Tensor) -> tuple[Tensor, int]:
    """Return the rows (n, ...) of all processes, one after another and without gradient, and the place of the first of one's own."""
    if not in_parallel():
        return own.detach(), 0
    counts = [int(n) for n in together([len(own)])]
    most = torch.zeros(max(counts), *own.shape[1:], dtype=own.dtype, device=_device())
    most[: len(own)] = own.detach().to(most.device)
    parts = [torch.empty_like(most) for _ in counts]
    dist.all_gather(parts, most)
    rows = torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
    return rows.to(own.device), sum(counts[: dist.get_rank()])


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Copy the BatchNorm statistics of the first process to all others, because each process updates its own in training."""
    if in_parallel():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                held = buffer.to(_device())
                dist.broadcast(held, 0)
                buffer.copy_(held)


def real_rows(rows: int, loader: Any) -> int:
    """Return how many of the `rows` of this process's evaluation batch count.

    accelerate fills up the last batches with rows from the start of the data set. `loader` is the accelerator's
    `gradient_state`, which knows where in the data set the batch lies.
    """
    if not in_parallel() or not loader.end_of_dataloader or loader.remainder <= 0:
        return rows
    return min(max(loader.remainder - dist.get_rank() * rows, 0), rows)


def _device() -> torch.device:
    """Return the device on which the process group needs its tensors."""
    return torch.device("cpu") if "gloo" in dist.get_backend() else PartialState().device

"""Sums over the global batch, for terms that are not linear in it: every process, every micro-batch, and the steps before.

The mean of such a term over parts of a batch is not its value on the whole (information estimated on fewer samples is biased
upwards). So the sums behind it are pooled: in the term each process sees the total, of which its own part has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PooledSums:
    """Totals of per-batch sums (..., C + 1), the last column a count of samples.

    [derived] With T the total over all parts and s this part's own sums, a term g(T − sg[s] + s) has the value g(T) and the
    gradient ∂g/∂T · ∂s; summed over all parts that is the gradient on the whole batch, exactly. Data parallel and accumulation
    both average gradients over the parts, so `share` multiplies the term's gradient by their number.

    Args:
        processes: number of processes that hold parts.
        memory: share of the past kept in the totals, in [0, 1): exponentially decayed sums. The gradient is scaled to that
            of the batch, so that a weight means the same with any memory. 0: this batch alone.
    """

    def __init__(self, processes: int = 1, memory: float = 0.0) -> None:
        self.processes, self.memory = processes, memory
        self.parts, self.weight = 1, 0.0
        self.past: Tensor | None = None  # decayed sums of the steps so far, worth `weight` batches
        self._total: Tensor | None = None

    def look_ahead(self, own: Sequence[Tensor]) -> None:
        """Start a step with several micro-batches: `own` holds the sums of each, without gradient."""
        self.parts = len(own)
        self._total = sum_over_processes(torch.stack(list(own)).sum(0)) if self.parts > 1 else None

    def __call__(self, own: Tensor) -> Tensor:
        """The totals, with the gradient of `own`, and the past in them."""
        total = sum_over_processes(own.detach().clone()) if self._total is None else self._total
        self._latest = total if self.past is None else self.memory * self.past.to(total) + total
        # Means over a long past hardly depend on this batch; the weight gives its gradient the scale of one batch again.
        return self._latest + (1 + self.memory * self.weight) * (own - own.detach())

    def share(self, term: Tensor) -> Tensor:
        """`term` as it is, its gradient multiplied by the number of parts that will be averaged."""
        return term.detach() + self.processes * self.parts * (term - term.detach())

    def end_step(self) -> None:
        """After an optimiser step: this batch joins the past."""
        if self.memory:
            self.past, self.weight = self._latest, 1 + self.memory * self.weight
        self.parts, self._total = 1, None

    def state(self) -> dict[str, Any]:
        return {} if self.past is None else {"past": self.past.tolist(), "weight": self.weight}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "past" in state:
            self.past, self.weight = torch.tensor(state["past"]), state["weight"]


def in_parallel() -> bool:
    """Whether several processes share the work."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """`tensor`, in place, summed over all processes; without gradient."""
    if in_parallel():
        dist.all_reduce(tensor)
    return tensor


def class_sums(probabilities: Tensor, cells: Tensor, count: int) -> Tensor:
    """Sums (count, C + 1) of probabilities (B, C) over the rows of each cell, `cells` (B,) its number; last: how many."""
    ones = torch.ones(len(cells), 1, device=probabilities.device, dtype=probabilities.dtype)
    rows = torch.cat([probabilities, ones], -1)
    return torch.zeros(count, rows.shape[-1], device=rows.device, dtype=rows.dtype).index_add(0, cells, rows)


def means(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vectors (..., C) and counts (...,) of totals (..., C + 1); an empty cell has mean 0."""
    counts = totals[..., -1]
    return totals[..., :-1] / counts[..., None].clamp_min(1e-12), counts

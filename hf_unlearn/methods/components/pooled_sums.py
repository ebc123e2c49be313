"""Sums over the global batch, for terms that are not linear in it: every process, every micro-batch, and the steps before.

The mean of such a term over parts of a batch is not its value on the whole (information estimated on fewer samples is biased
upwards). So the sums behind it are pooled: in the term each process sees the total, of which its own part has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...utils.distributed import sum_over_processes


class PooledSums:
    """Totals of per-batch sums (..., C + 1), the last column a count of samples.

    [derived] With T the total over all parts and s this part's own sums, a term g(T − sg[s] + s) has the value g(T) and the
    gradient ∂g/∂T · ∂s; summed over all parts that is the gradient on the whole batch, exactly. The trainer weights a part by
    its share of the step's rows, as a mean over them wants it, so `term` divides the gradient by that share.

    Args:
        memory: share of the past kept in the totals, in [0, 1): exponentially decayed sums. The gradient is scaled to that
            of the batch, so that a weight means the same with any memory. 0: this batch alone.
    """

    def __init__(self, memory: float = 0.0) -> None:
        self.memory, self.weight = memory, 0.0
        self.past: Tensor | None = None  # decayed sums of the steps so far, worth `weight` batches
        self._total: Tensor | None = None

    def look_ahead(self, own: Sequence[Tensor]) -> None:
        """Start a step with several micro-batches: `own` holds the sums of each, without gradient."""
        self._total = sum_over_processes(torch.stack(list(own)).sum(0)) if len(own) > 1 else None

    def __call__(self, own: Tensor) -> Tensor:
        """The totals, with the gradient of `own`, and the past in them."""
        total = sum_over_processes(own.detach().clone()) if self._total is None else self._total
        self._latest = total if self.past is None else self.memory * self.past.to(total) + total
        # Means over a long past hardly depend on this batch; the weight gives its gradient the scale of one batch again.
        return self._latest + (1 + self.memory * self.weight) * (own - own.detach())

    def term(self, value: Tensor, share: float) -> Tensor:
        """`value` as it is, its gradient over `share` (`batch["share"]`), by which the trainer multiplies it; 0 for a part of none."""
        return value.detach() + over_share(value - value.detach(), share)

    def end_step(self) -> None:
        """After an optimiser step: this batch joins the past."""
        if self.memory:
            self.past, self.weight = self._latest, 1 + self.memory * self.weight
        self._total = None

    def state(self) -> dict[str, Any]:
        return {} if self.past is None else {"past": self.past.tolist(), "weight": self.weight}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "past" in state:
            self.past, self.weight = torch.tensor(state["past"]), state["weight"]


def over_share(value: Tensor, share: float) -> Tensor:
    """`value` / `share`: what enters a step undivided, where the trainer weights a batch by its `share`; 0 for a share of 0."""
    return value / share if share else 0.0 * value


def class_sums(probabilities: Tensor, cells: Tensor, count: int) -> Tensor:
    """Sums (count, C + 1) of probabilities (B, C) over the rows of each cell, `cells` (B,) its number; last: how many."""
    ones = torch.ones(len(cells), 1, device=probabilities.device, dtype=probabilities.dtype)
    rows = torch.cat([probabilities, ones], -1)
    return torch.zeros(count, rows.shape[-1], device=rows.device, dtype=rows.dtype).index_add(0, cells, rows)


def means(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vectors (..., C) and counts (...,) of totals (..., C + 1); an empty cell has mean 0."""
    counts = totals[..., -1]
    return totals[..., :-1] / counts[..., None].clamp_min(1e-12), counts

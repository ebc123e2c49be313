"""Sums over the global batch, for terms that are not linear in the batch.

The mean of such a term over parts of a batch is not its value on the whole: information estimated on fewer samples is biased
upwards. So the sums behind the term are pooled over processes, micro-batches and past steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...utils.distributed import sum_over_processes


class PooledSums:
    """Totals of per-batch sums (..., C + 1), whose last column counts samples.

    [derived] With T the total over all parts and s this part's own sums, a term g(T − sg[s] + s) has the value g(T) and the
    gradient ∂g/∂T · ∂s. Summed over all parts that is exactly the gradient on the whole batch. The trainer multiplies each
    part by its share of the step's rows, so `term` divides the gradient by that share.

    Args:
        memory: decay of past steps in the totals, in [0, 1). At 0 the totals are those of one step. The gradient keeps the
            scale of one batch, so that a weight means the same with any memory.
    """

    def __init__(self, memory: float = 0.0) -> None:
        self.memory, self.weight = memory, 0.0
        self.past: Tensor | None = None  # decayed sums of the steps so far, worth `weight` batches
        self._total: Tensor | None = None

    def start_step(self, own: Sequence[Tensor]) -> None:
        """Start a step of several micro-batches, given the sums of each, without gradient."""
        self._total = sum_over_processes(torch.stack(list(own)).sum(0))

    def __call__(self, own: Tensor) -> Tensor:
        """Return the totals with the past in them and with the gradient of `own`."""
        total = sum_over_processes(own.detach().clone()) if self._total is None else self._total
        self._latest = total if self.past is None else self.memory * self.past.to(total) + total
        # Means over a long past hardly depend on this batch; the weight gives its gradient the scale of one batch again.
        return self._latest + (1 + self.memory * self.weight) * (own - own.detach())

    def term(self, value: Tensor, share: float) -> Tensor:
        """Return `value` with its gradient divided by `share`; the gradient is 0 for a share of 0."""
        return value.detach() + over_share(value - value.detach(), share)

    def end_step(self) -> None:
        """Add this step to the past, after an optimizer step."""
        if self.memory:
            self.past, self.weight = self._latest, 1 + self.memory * self.weight
        self._total = None

    def state(self) -> dict[str, Any]:
        return {} if self.past is None else {"past": self.past.tolist(), "weight": self.weight}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.past = torch.tensor(state["past"]) if "past" in state else None
        self.weight = state.get("weight", 0.0)


def over_share(value: Tensor, share: float) -> Tensor:
    """Return `value` / `share`, for what enters a step undivided where the trainer multiplies by `share`; 0 for a share of 0."""
    return value / share if share else 0.0 * value


def class_sums(probabilities: Tensor, cells: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
    """Return sums (count, C + 1) of probabilities (B, C) over the rows of each cell; the last column counts the rows.

    Args:
        cells: (B,), the cell of each row, from 0 to `count` − 1.
        labels: (B,); if given, the sums are those of each class and cell, (C, count, C + 1).
    """
    if labels is not None:
        classes = probabilities.shape[-1]
        return class_sums(probabilities, count * labels + cells, classes * count).view(classes, count, -1)
    rows = torch.cat([probabilities, torch.ones_like(probabilities[:, :1])], -1)
    return rows.new_zeros(count, rows.shape[-1]).index_add(0, cells, rows)


def means(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean vectors (..., C) and counts (...,) of totals (..., C + 1); the mean of an empty cell is 0."""
    counts = totals[..., -1]
    return totals[..., :-1] / counts[..., None].clamp_min(1e-12), counts

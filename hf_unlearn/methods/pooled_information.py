"""What IT-reg's two training forms share: mean outputs pooled over the global batch, the micro-batches and the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Paper, UnlearningMethod, setting
from .components.pooled_sums import PooledSums
from .protocols import UnlearningRun

IT_REG = Paper("Machine Unlearning via Information Theoretic Regularization", "2502.05684")


@dataclass(kw_only=True)
class PooledInformation(UnlearningMethod):
    """A method with a term in the mean outputs of groups; a subclass defines `logits`, `own_sums`, and a loss of `_sums`."""

    paper: ClassVar[Paper | None] = IT_REG
    needs_retain: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp", "fsdp", "deepspeed"})

    memory: float = setting(0.0, "Share of past steps in the mean outputs, in [0, 1); 0: of this batch alone.")

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1:
            raise ValueError(f"`memory` is a share of the past, in [0, 1), got {self.memory}.")

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """(rows, classes), fp32, of all rows of the batch that the term reads."""
        raise NotImplementedError(f"{type(self).__name__} must define `logits`.")

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """(..., groups, C + 1): `class_sums` of this batch."""
        raise NotImplementedError(f"{type(self).__name__} must define `own_sums`.")

    def setup(self, run: UnlearningRun) -> None:
        self._sums = PooledSums(self.memory)

    def pooled(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The sums of the whole step, and of the past, with the gradient of this batch."""
        return self._sums(self._counted(logits, batch))

    def term(self, value: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """A term of the pooled sums as the trainer wants it: it weights a batch by its share."""
        return self._sums.term(value, batch.get("share", 1.0))

    def _counted(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """`own_sums`, or zeros for a batch that only fills up."""
        own = self.own_sums(logits, batch)
        return own if batch.get("share", 1.0) else 0.0 * own

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        if len(batches) > 1:
            with torch.no_grad():
                self._sums.look_ahead([self._counted(self.logits(model, b), b) for b in batches])

    def adjust_gradients(self, model: nn.Module) -> None:
        self._sums.end_step()

    def state(self) -> dict[str, Any]:
        return self._sums.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._sums.load_state(state)

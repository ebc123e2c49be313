"""The base of the two training forms of IT-reg: mean outputs pooled over the global batch and over past steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.forward import classify, eval_mode, model_inputs
from .base import EVERY_BACKEND, Paper, UnlearningMethod, setting
from .components.pooled_sums import PooledSums
from .protocols import UnlearningRun

IT_REG = Paper("Machine Unlearning via Information Theoretic Regularization", "2502.05684")


@dataclass(kw_only=True)
class PooledInformation(UnlearningMethod):
    """A method with a term in the mean outputs of groups; a subclass defines `own_sums` and `loss`."""

    paper: ClassVar[Paper | None] = IT_REG
    needs_retain: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = EVERY_BACKEND

    memory: float = setting(0.0, "Weight of past steps in the mean outputs, in [0, 1). 0 means none.")

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1:
            raise ValueError(f"`memory` is a share of the past, in [0, 1), got {self.memory}.")

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return logits (rows, classes), in fp32, of the rows that the term reads: here those of the retain set."""
        with eval_mode(model):
            return classify(model, model_inputs(batch["retain"])).float()

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return `class_sums` of this batch, (..., groups, C + 1)."""
        raise NotImplementedError(f"{type(self).__name__} must define `own_sums`.")

    def setup(self, run: UnlearningRun) -> None:
        self._sums = PooledSums(self.memory)

    def pooled(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the sums of the whole step and of the past, with the gradient of this batch."""
        return self._sums(self._counted(logits, batch))

    def term(self, value: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return `value`, a function of `pooled`, with its gradient divided by the share by which the trainer multiplies it."""
        return self._sums.term(value, batch.get("share", 1.0))

    def _counted(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return `own_sums`, or zeros for a batch of padding rows."""
        own = self.own_sums(logits, batch)
        return own if batch.get("share", 1.0) else 0.0 * own

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        if len(batches) > 1:
            with torch.no_grad():
                self._sums.start_step([self._counted(self.logits(model, b), b) for b in batches])

    def adjust_gradients(self, model: nn.Module) -> None:
        self._sums.end_step()

    def state(self) -> dict[str, Any]:
        return self._sums.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._sums.load_state(state)

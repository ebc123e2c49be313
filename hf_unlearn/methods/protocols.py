"""What a method may see of the run that it is part of: `UnlearningTrainer` is an `UnlearningRun`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..models.adapters import Patch
from ..models.processor import Processor
from ..models.reference import Reference
from ..models.snapshot import Snapshot


class OutputMonitor(Protocol):
    """Looks at the model of a run; see `training.monitor.Monitor`."""

    target: float | None

    def forget_logits(self) -> Tensor:
        """Logits (n, classes) of the model, as it is now, on the whole forget set."""

    def held_out_accuracy(self) -> float | None:
        """Share of labelled held-out rows that the model gets right, None without any."""

    def model_changed(self) -> None:
        """Forget what was seen: weights were written outside an optimiser step."""


class UnlearningRun(Protocol):
    """A run, as its method sees it from `prepare` on.

    Attributes:
        model: what is unlearned, in place.
        processor: turns rows into batches.
        reference: the outputs of the original on the forget set.
        args: the resolved `UnlearningArguments`.
        forget_dataset, retain_dataset: as they were passed, None where there is none.
        forget_rows: the rows to forget as model inputs; without a forget set, the training rows that are looked at.
        original: a copy of the weights that may move, as they were.
        patch: the adapter of the run, None where weights of the model itself move.
        group_names: names of the groups of the attribute, for a method that `needs_column`.
    """

    model: Any
    processor: Processor
    reference: Reference
    args: Any
    forget_dataset: Any
    retain_dataset: Any
    forget_rows: PreparedRows
    original: Snapshot | None
    patch: Patch | None
    group_names: list[str]

    @property
    def monitor(self) -> OutputMonitor:
        """What looks at the model; there from `setup` on."""

    def fresh_model(self) -> nn.Module:
        """An untrained model of the same kind."""

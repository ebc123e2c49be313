"""The view that a method has of its run. `UnlearningTrainer` is an `UnlearningRun`."""

from typing import Any, Protocol

from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..models.adapters import Patch
from ..models.base import StartingPoint
from ..models.processor import Processor
from ..models.reference import Reference
from ..models.snapshot import Snapshot


class OutputMonitor(Protocol):
    """Measures the model of a run; see `training.monitor.Monitor`."""

    target: float | None

    def forget_logits(self) -> Tensor:
        """Return logits (n, classes) of the present model on the whole forget set."""

    def held_out_accuracy(self) -> float | None:
        """Return the accuracy on labeled held-out rows, or None without any."""

    def held_out_answers(self, limit: int) -> tuple[Tensor, Tensor] | None:
        """Return logits (m, classes) of the present model on at most `limit` labeled held-out rows, and their labels."""

    def share_kept(self) -> float | None:
        """Return the accuracy, in [0, 1], on a sample of the rows to keep, or what of the original's answers is kept; None without any."""

    def judge_by_retain_rows(self) -> None:
        """Let retain rows show damage in place of held-out rows; while the model is the original."""

    def model_changed(self) -> None:
        """Drop stored outputs, because weights were written outside an optimizer step."""


class UnlearningRun(Protocol):
    """A run, as its method sees it from `prepare` on.

    Attributes:
        model: the model that unlearns, in place.
        processor: turns rows into batches.
        reference: the outputs of the original on the forget set.
        args: the resolved `UnlearningArguments`.
        forget_dataset, retain_dataset: the sets as the user passed them, or None.
        forget_rows: the rows to forget as model inputs; without a forget set, the training rows that the monitor measures.
        original: a copy of the original weights that may move.
        patch: the adapter of the run, None if weights of the model itself move.
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
        """The monitor, which exists from `setup` on."""

    def starting_point(self) -> StartingPoint | None:
        """Return where the training of the original began; None if that is not known."""

    def fresh_model(self) -> nn.Module:
        """Return an untrained model of the same architecture."""

"""What the rooms around the trainer may see of it: while it trains (`TrainingRun`), and afterwards (`FinishedRun`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

from ..data.sampling import EpochSampler
from ..methods import UnlearningMethod
from ..methods.protocols import OutputMonitor, UnlearningRun
from .outcome import Outcome


class RunMonitor(OutputMonitor, Protocol):
    """The monitor, as stopping and verification see it."""

    guards_kept: bool

    def share_remembered(self, limit: int | None = None) -> float:
        """Share of the forget set (or of `limit` rows of it) that is still answered as before."""

    def share_kept(self) -> float | None:
        """Accuracy on a probe of rows to keep, None without labelled ones."""


class StopRecord(Protocol):
    """What the control of a run has seen, and why it stopped."""

    path: list[dict[str, float]]
    stopped: str


class TrainingRun(UnlearningRun, Protocol):
    """A trainer while it trains. Beside these, `state`, `control`, `optimizer` and `lr_scheduler` are as in the HF Trainer.

    Attributes:
        updated: names of the parameters that may move.
        sampler: the order of the training samples.
        eval_dataset: held-out rows, or a dictionary of such sets.
        original_fingerprints: digests of the original's tensors.
        interrupted: number of the signal that asked the run to end; 0 for none.
        shards: whether the base class shards the model over processes while it trains.
    """

    method: UnlearningMethod
    updated: list[str]
    sampler: EpochSampler
    eval_dataset: Any
    original_fingerprints: dict[str, str]
    interrupted: int
    shards: bool
    model_wrapped: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any

    @property
    def monitor(self) -> RunMonitor:
        """What looks at the model."""

    @property
    def forgetting(self) -> StopRecord:
        """What stops the run."""

    def original_weights(self) -> AbstractContextManager[nn.Module]:
        """The model with its original weights inside, the unlearned ones afterwards."""

    def log(self, logs: dict[str, float]) -> None:
        """Add an entry to the log."""


class FinishedRun(Protocol):
    """A trainer after `train()`, as report, receipt and push see it.

    Attributes:
        outcome: what the run did, checked.
        seconds: it took, in all its parts; `started`: when it began, on the clock of `time.perf_counter`.
        The others are as in `UnlearningRun` and `TrainingRun`.
    """

    model: Any
    processor: Any
    reference: Any
    args: Any
    method: UnlearningMethod
    patch: Any
    forget_dataset: Any
    retain_dataset: Any
    original_fingerprints: dict[str, str]
    outcome: Outcome | None
    seconds: float
    started: float

    def original_weights(self) -> AbstractContextManager[nn.Module]:
        """The model with its original weights inside, the unlearned ones afterwards."""

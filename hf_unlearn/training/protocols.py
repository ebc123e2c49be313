"""What other rooms see of the trainer: `TrainingRun` while it trains, and `FinishedRun` afterwards."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

from ..data.sampling import EpochSampler
from ..methods import UnlearningMethod
from ..methods.protocols import OutputMonitor, UnlearningRun
from .outcome import Outcome


class RunMonitor(OutputMonitor, Protocol):
    """The monitor, for stopping and verification; see `monitor.Monitor`."""

    guards_kept: bool
    judges_kept: bool
    doubts: list[str]

    def of_original(self) -> AbstractContextManager[None]:
        """Inside, the model has its original weights."""

    def share_remembered(self, limit: int | None = None) -> float:
        """Return the share of the forget set (or of `limit` rows of it) that is still answered as before."""

    def share_kept(self) -> float | None:
        """Return the accuracy on retained rows, None without labelled ones."""


class StopRecord(Protocol):
    """The checks of a run, and why it stopped; see `stopping.ForgettingControl`."""

    path: list[dict[str, float]]
    stopped: str
    halvings: int


class TrainingRun(UnlearningRun, Protocol):
    """A trainer while it trains. Attributes without a description are those of the HF Trainer.

    Attributes:
        guard_dataset: Rows to keep for a method that may not read them. They are measured, and nothing is trained on them.
        updated: Names of the parameters that may move.
        sampler: The order of the training samples.
        original_fingerprints: Digests of the original's tensors.
        interrupted: Number of the signal that asked the run to end; 0 for none.
        shards: True if the base class shards the model over processes while it trains.
    """

    method: UnlearningMethod
    guard_dataset: Any
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
        """The monitor, which measures the model."""

    @property
    def forgetting(self) -> StopRecord:
        """The control, which stops the run."""

    def original_weights(self) -> AbstractContextManager[nn.Module]:
        """Inside the context, the model has its original weights."""

    def log(self, logs: dict[str, float]) -> None:
        """Add an entry to the log."""


class FinishedRun(Protocol):
    """A trainer after `train()`, for report, receipt and push. `UnlearningRun` and `TrainingRun` describe the other attributes.

    Attributes:
        base_model: What the original was fine-tuned from (`Base`), `"none"` for random weights, None if it is not known.
        updated: Names of the parameters that were allowed to move.
        outcome: What the run did, verified.
        seconds: Duration of the run, in all its parts.
        started: When the run began, on the clock of `time.perf_counter`.
        given: The arguments of the trainer, with the data sets as they were given.
    """

    model: Any
    processor: Any
    reference: Any
    args: Any
    method: UnlearningMethod
    patch: Any
    base_model: Any
    forget_dataset: Any
    retain_dataset: Any
    original_fingerprints: dict[str, str]
    updated: list[str]
    outcome: Outcome | None
    seconds: float
    started: float
    given: dict[str, Any]

    def original_weights(self) -> AbstractContextManager[nn.Module]:
        """Inside the context, the model has its original weights."""

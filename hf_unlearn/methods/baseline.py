"""What the published baselines share: a length and a learning rate that fit the original at hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..models.base import StartingPoint
from ..utils.argument_checks import check_positive
from .base import ALL_WEIGHTS, UnlearningMethod, setting
from .components.fitting_rate import fitting_rate, learned_length
from .protocols import UnlearningRun

FEWEST_STEPS = 12
SCRATCH = 2.0  # times the passes of an original that was trained from random weights, which takes more passes than fine-tuning


@dataclass(kw_only=True)
class Baseline(UnlearningMethod):
    """A published method, with a length and a learning rate that fit the original at hand.

    A published rate fits the network, the data and the optimizer of its paper, and one rate for all methods is how comparisons go
    wrong. Here AdamW's rate is a share of the root mean square by which training moved a weight, and the length is counted in
    passes over the retain set; `docs/benchmarks.md` says what that gives on fine-tuned public bases. Everything else is as published,
    and settings that are not say so.
    """

    needs_retain: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    reads_base: ClassVar[bool] = True
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "it compares whole weights with those of the base",
        "deepspeed": "it compares whole weights with those of the base",
    }
    arguments: ClassVar[Mapping[str, Any]] = {
        **ALL_WEIGHTS,
        "check_steps": 20,
        "per_device_train_batch_size": 4,
        "retain_per_forget": 4,
    }

    rate: float = setting(0.1, "Learning rate as a share of the root mean square by which training moved a weight.")
    passes: float = setting(
        0.5, "Passes over the retain set, twice as many for an original that was trained from random weights."
    )

    def __post_init__(self) -> None:
        check_positive(self, "rate", "passes")

    def moves_statistics(self) -> bool:
        return True

    def default_steps(
        self, retain_rows: int | None, retain_batch: int, trained: str = "base", kind: str = "class"
    ) -> int | None:
        if retain_rows is None or not self.needs_retain:
            return None
        passes = self.passes * (SCRATCH if trained == "scratch" else 1.0)
        return max(FEWEST_STEPS, math.ceil(passes * retain_rows / retain_batch))

    def setup(self, run: UnlearningRun) -> None:
        start = run.starting_point()
        self._found_rate = fitting_rate(run, start, learned_length(run, start), self.rate, type(self).rate)
        self._steps = 0
        self._all_steps = steps_of(run)
        self.begin(run, start)

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        """Prepare the method, while the model still is the original. `start` is where its training began, None if not known."""

    @property
    def progress(self) -> float:
        """The share of all steps that are taken, in [0, 1)."""
        return min(max(self._steps - 1, 0) / self._all_steps, 1.0)

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        self._steps += 1

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]


@dataclass(kw_only=True)
class ForgetOnlyBaseline(Baseline):
    """A published method that reads the forget set alone. Its length is counted in passes over that (`num_train_epochs`).

    Dropout is off and BatchNorm statistics stay, because they would become those of the forget rows.
    """

    needs_retain: ClassVar[bool] = False
    arguments: ClassVar[Mapping[str, Any]] = {
        **Baseline.arguments,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 16,
        "retain_per_forget": 1,
    }

    rate: float = setting(0.05, "Learning rate as a share of the root mean square by which training moved a weight.")
    passes: float = setting(0.5, "Without effect here, where no retain set is read: give `num_train_epochs`.")

    def moves_statistics(self) -> bool:
        return False


def steps_of(run: UnlearningRun) -> int:
    """Return the number of steps that a run may take."""
    args = run.args
    if args.max_steps > 0:
        return int(args.max_steps)
    rows = args.batch_rows * args.gradient_accumulation_steps
    return max(1, math.ceil(args.num_train_epochs * math.ceil(len(run.forget_rows) / rows)))

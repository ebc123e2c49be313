"""The outcome of a run, verified after it."""

from dataclasses import asdict, dataclass, field
from typing import Any

UNCHANGED = "no parameter changed: the model is the original"
STILL_OUTPUTS = "the outputs on the forget set did not move"


class StrayChange(RuntimeError):
    """A run changed parameters that it was not allowed to change."""


@dataclass
class Outcome:
    """What a run did, verified after it.

    Attributes:
        steps: Optimizer steps.
        stopped: Why the run ended.
        forget_start, forget_end: Share of the forget set answered as by the original, in [0, 1], before and after.
        forget_target: The share to reach; None for no target.
        retain_start, retain_end: Accuracy on a probe of retained rows, in [0, 1]; None without labelled rows.
        outputs_moved: Mean total variation distance, in [0, 1], of the outputs on the forget set from the original's.
        tensors_changed: Number of parameters and buffers that changed.
        target_reached: None without a target.
        warnings: What went wrong.
        cautions: What a reader must know, although the run did what was asked.
        path: The checks during the run; see `stopping.ForgettingControl`.
    """

    steps: int = 0
    stopped: str = "all steps done"
    forget_start: float = 1.0
    forget_end: float = 1.0
    forget_target: float | None = None
    retain_start: float | None = None
    retain_end: float | None = None
    outputs_moved: float = 0.0
    tensors_changed: int = 0
    target_reached: bool | None = None
    warnings: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    path: list[dict[str, float]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if the run did what was asked."""
        return not self.warnings

    @property
    def unchanged(self) -> bool:
        """True if the run ended with the original, so that there is no unlearned model."""
        return UNCHANGED in self.warnings

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form for others, without the digits by which a mean over few rows would reveal these rows."""
        return asdict(self) | {"outputs_moved": float(f"{self.outputs_moved:.1g}")}

"""What a run did, checked after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


class StrayChange(RuntimeError):
    """Parameters changed that a run was not allowed to change."""


@dataclass
class Outcome:
    """What a run did, checked after it: the answer to "did it really work?"."""

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
    path: list[dict[str, float]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the run did what was asked."""
        return not self.warnings

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for others to read: the mean of few rows, in all its digits, would tell which rows they were."""
        return asdict(self) | {"outputs_moved": float(f"{self.outputs_moved:.1g}")}

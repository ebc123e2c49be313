"""After a run: which parameters changed, whether the outputs moved, whether kept data suffered. Never a false success."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..models.adapters import norms_to_hold
from ..models.snapshot import fingerprints
from ..utils.large_tensors import chunks

if TYPE_CHECKING:
    from torch import Tensor

    from ..trainer import UnlearningTrainer

logger = logging.getLogger(__name__)


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


def mean_total_variation(a: Tensor, b: Tensor) -> float:
    """Mean total variation distance, in [0, 1], between the outputs of two models given as logits (n, classes)."""
    moved = sum((p.softmax(-1) - q.softmax(-1)).abs().sum(dtype=torch.float64) for p, q in chunks(a, b))
    return 0.5 * float(moved) / len(a)


def verify(trainer: UnlearningTrainer) -> Outcome:
    """Compare the model with its original, and say what is wrong.

    Raises:
        StrayChange: parameters outside `update` changed.
    """
    method, reference = trainer.method, trainer.reference
    before, after = trainer.original_fingerprints, fingerprints(trainer.model)
    changed = {n for n in before if before[n] != after[n]}
    strays = changed - set(trainer.updated)
    if method.moves_statistics():
        held = {id(b) for norm in norms_to_hold(trainer.model, trainer.updated) for b in norm.buffers()}
        strays -= {n for n, b in trainer.model.named_buffers() if id(b) not in held}
    if strays:
        raise StrayChange(
            f"`update={trainer.args.update!r}` allows {len(trainer.updated)} tensors to change, and others did: "
            f"{', '.join(sorted(strays)[:5])}. The model must not be used. Load the original again, "
            "and give an `update` that names these if they may move."
        )
    logits = trainer.watch.forget_logits()
    remembered = reference.remembered(logits, torch.arange(len(logits))).float().mean().item()
    path, target = trainer.forgetting.path, trainer.watch.target
    out = Outcome(
        steps=trainer.state.global_step,
        stopped=trainer.forgetting.stopped
        or ("all steps done" if trainer.state.global_step >= trainer.state.max_steps else "ended by a callback"),
        forget_start=path[0]["forget"],
        forget_end=remembered,
        forget_target=target,
        retain_start=path[0].get("retain"),
        retain_end=trainer.watch.share_kept(),
        outputs_moved=mean_total_variation(logits, reference.logits),
        tensors_changed=len(changed),
        target_reached=None if target is None else remembered <= target,
        path=path,
    )
    if not changed and not method.one_shot:
        out.warnings.append("no parameter changed: the model is the original")
    elif out.outputs_moved < 1e-4:
        out.warnings.append("the outputs on the forget set did not move")
    if target is not None and out.forget_start <= target:
        out.warnings.append(
            f"the target, {target:.1%} of the forget set, was met before the first step: nothing to forget"
        )
    if out.target_reached is False:
        out.warnings.append(f"the target was not reached: {remembered:.1%} of the forget set, wanted {target:.1%}")
    if out.stopped.startswith(("diverged", "kept data")):
        out.warnings.append(f"stopped early, last good state restored: {out.stopped}")
    if out.retain_start is not None and out.retain_end is not None and trainer.watch.guards_kept:
        drop = out.retain_start - out.retain_end
        if not drop <= trainer.args.max_retain_drop:
            out.warnings.append(f"kept data collapsed: accuracy fell by {100 * drop:.1f} points")
    for warning in out.warnings:
        logger.warning(warning)
    return out

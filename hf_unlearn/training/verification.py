"""The check after a run: which parameters changed, whether the outputs moved, and whether retained rows suffered."""

import logging

import torch
from torch import Tensor

from ..models.adapters import norms_to_hold
from ..models.snapshot import fingerprints
from ..utils.large_tensors import chunks
from .outcome import STILL_OUTPUTS, UNCHANGED, Outcome, StrayChange
from .protocols import TrainingRun

logger = logging.getLogger(__name__)


def mean_total_variation(a: Tensor, b: Tensor) -> float:
    """Return the mean total variation distance, in [0, 1], between the outputs of two models, given as logits (n, classes)."""
    moved = sum((p.softmax(-1) - q.softmax(-1)).abs().sum(dtype=torch.float64) for p, q in chunks(a, b))
    return 0.5 * float(moved) / len(a)


def verify(run: TrainingRun) -> Outcome:
    """Compare the model with its original, and log what is wrong; raise StrayChange if frozen parameters changed."""
    method, reference = run.method, run.reference
    before, after = run.original_fingerprints, fingerprints(run.model)
    changed = {n for n in before if before[n] != after[n]}
    strays = changed - set(run.updated)
    if method.moves_statistics():
        held = {id(b) for norm in norms_to_hold(run.model, run.updated) for b in norm.buffers()}
        strays -= {n for n, b in run.model.named_buffers() if id(b) not in held}
    if strays:
        raise StrayChange(
            f"`update={run.args.update!r}` allows {len(run.updated)} tensors to change, and others changed: "
            f"{', '.join(sorted(strays)[:5])}. The model must not be used. Load the original again, and choose an "
            "`update` that names these tensors if they may move."
        )
    logits = run.monitor.forget_logits()
    remembered = reference.remembered(logits, torch.arange(len(logits))).float().mean().item()
    path, target = run.forgetting.path, run.monitor.target
    all_steps = run.state.global_step >= run.state.max_steps
    stopped = run.forgetting.stopped or ("all steps done" if all_steps else "ended by a callback")
    if times := run.forgetting.halvings:
        stopped += f", steps halved {times} {'time' if times == 1 else 'times'}"
    out = Outcome(
        steps=run.state.global_step,
        stopped=stopped,
        forget_start=path[0]["forget"],
        forget_end=remembered,
        forget_target=target,
        retain_start=path[0].get("retain"),
        retain_end=run.monitor.share_kept(),
        outputs_moved=mean_total_variation(logits, reference.logits),
        tensors_changed=len(changed),
        target_reached=None if target is None else remembered <= target,
        path=path,
    )
    if not changed and not method.one_shot:
        out.warnings.append(UNCHANGED)
    elif out.outputs_moved < 1e-4:
        out.warnings.append(STILL_OUTPUTS)
    if target is not None and out.forget_start <= target:
        out.warnings.append(
            f"the target, {target:.1%} of the forget set, was met before the first step: nothing to forget"
        )
    if out.target_reached is False:
        out.warnings.append(
            f"the target was not reached: {remembered:.1%} of the forget set is still answered as by the original, and {target:.1%} is wanted"
        )
    if out.stopped.startswith(("diverged", "kept data")):
        out.warnings.append(f"stopped early, last good state restored: {out.stopped}")
    if out.retain_start is not None and out.retain_end is not None and run.monitor.judges_kept:
        drop = out.retain_start - out.retain_end
        if not drop <= run.args.max_retain_drop:
            out.warnings.append(f"kept data collapsed: accuracy fell by {100 * drop:.1f} points")
    out.warnings[:0] = run.monitor.doubts  # the other findings may follow from them
    for warning in out.warnings:
        logger.warning(warning)
    return out

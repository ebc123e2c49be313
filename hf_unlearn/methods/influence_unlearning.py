"""Influence unlearning: one step to where the weights would be without the forget rows, by a prediction of influence functions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..data.pairs import PreparedRows
from ..models.forward import unwrap
from ..utils.argument_checks import check_counts, check_positive
from .base import Paper, UnlearningMethod, setting
from .components.influence import Sample, influence, mean_gradients
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

CURVATURES = ("diagonal", "none")
HALVINGS = 20  # of a step that damages retain rows


@dataclass(kw_only=True)
class InfluenceUnlearning(UnlearningMethod):
    """Take one step to where training without the forget rows would have ended, as influence functions predict (arXiv 2304.04934, IU).

    With g mean gradients of the cross-entropy, n_f of n rows to forget, and F the diagonal of the Fisher information on retain rows:

        θ = θ₀ + α (n_f / n) (F + δ)⁻¹ (g_f − g_r)

    The published code means F⁻¹ by the recursion of WoodFisher, and starts it with the first row's gradient. Only that direction is
    ever scaled, so its result is a plain step, `curvature="none"`: θ = θ₀ + α (n_f / n) (g_f − g_r), with an α that was searched for
    each experiment. Here α is halved until retain rows suffer no more than `max_retain_drop` allows.

    | forget set | retain set | forward passes | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 with a gradient for each row that is read, and a check for each halving | three copies of the weights |

    Use it as a cheap baseline for a few rows. Do not expect a class to be forgotten: one step is too short where it is not ruinous.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=InfluenceUnlearning(), forget_dataset=split.forget,
                          retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "influence_unlearning"
    paper: ClassVar[Paper | None] = Paper("Model Sparsity Can Simplify Machine Unlearning", "2304.04934")
    one_shot: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "it takes gradients outside of the step that FSDP gathers",
        "deepspeed": "it takes gradients outside of the step that DeepSpeed knows",
    }
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"scale": (0.05, 20.0)}
    arguments: ClassVar[Mapping[str, Any]] = {"update": "all"}

    scale: float = setting(1.0, "Length α of the step, as a multiple of the predicted one.")
    curvature: str = setting(
        "diagonal", "`diagonal`: divide by the Fisher information; `none`: a plain step, as the published code takes."
    )
    damping: float = setting(0.1, "δ as a share of the mean of F.")
    rows: int = setting(512, "Most rows of each set whose gradients are taken.")

    def __post_init__(self) -> None:
        check_positive(self, "scale", "damping")
        check_counts(self, "rows")
        if self.curvature not in CURVATURES:
            raise ValueError(f"`curvature={self.curvature!r}` is not one of {', '.join(map(repr, CURVATURES))}.")

    def setup(self, run: UnlearningRun) -> None:
        parameters = {n: p for n, p in unwrap(run.model).named_parameters() if p.requires_grad}
        kept = PreparedRows(run.retain_dataset, run.processor, "retain_dataset")
        forget, retain = (
            Sample(rows, run.processor.collate, self.rows, run.args.seed) for rows in (run.forget_rows, kept)
        )
        if self.curvature == "diagonal":
            move, _ = influence(run.model, list(parameters), forget, retain, damping=self.damping)
        else:
            move = plain_step(run, list(parameters), forget, retain)
        before = {n: p.detach().clone() for n, p in parameters.items()}
        kept_before, scale = run.monitor.share_kept(), self.scale
        for _ in range(HALVINGS):
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(before[name] + scale * move[name].to(before[name]))
            run.monitor.model_changed()
            now = run.monitor.share_kept()
            if kept_before is None or (now is not None and now >= kept_before - run.args.max_retain_drop):
                return
            scale /= 2
        logger.warning("Even a step of %.2g of the predicted length damages retain rows, so the weights stay.", scale)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
        run.monitor.model_changed()


def plain_step(run: UnlearningRun, names: list[str], forget: Sample, retain: Sample) -> dict[str, Tensor]:
    """Return (n_f / n) (g_f − g_r) for each parameter."""
    up, down = (mean_gradients(run.model, names, sample) for sample in (forget, retain))
    share = len(forget.rows) / (len(forget.rows) + len(retain.rows))
    return {name: share * (up[name] - down[name]) for name in names}

"""Selective synaptic dampening: weights that matter more for forget rows than for all rows shrink, once."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.pairs import PreparedRows
from ..models.forward import eval_mode, unwrap
from ..utils.argument_checks import check_counts, check_positive
from ..utils.distributed import sum_over_processes
from .base import Paper, UnlearningMethod, setting
from .components.influence import Sample, SampleGradients
from .protocols import UnlearningRun

logger = logging.getLogger(__name__)

IMPORTANCES = ("samples", "batches")
CHECKS = 7  # shares of the weights that are tried


@dataclass(kw_only=True)
class SelectiveSynapticDampening(UnlearningMethod):
    """Shrink the weights that matter more for the forget rows than for all rows, without training (SSD, arXiv 2308.07707).

    I_D and I_f are the diagonals of the Fisher information of all rows and of the forget rows, in evaluation mode:

        θ_i ← θ_i min(1, λ I_D,i / I_f,i)    for each i with I_f,i > α I_D,i,        I = E (∇ CE(f_θ(x), y))²

    The paper means squares of the gradients of single rows. The authors' code squares the mean gradient of each batch, so its
    result depends on size and order of the batches: `importance="batches"`. α is the percentile 100 − ln(1 + 100 n_f / n) of
    I_f / I_D over all weights, because no number suits all networks (ASSD, arXiv 2402.10098). SSD's own is `selection=10`, which
    shrinks nothing where more than a tenth of the rows are forgotten: I_f / I_D is at most n / n_f. For whole classes α falls
    further, until retain rows would suffer more than `max_retain_drop` allows. That is ours, because the percentile leaves nearly all
    of a class on fine-tuned bases.

    | forget set | retain set | forward passes | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 with a gradient for each row that is read | two numbers for each weight |

    Use it as a cheap baseline for a class of images. Do not use it for single rows, whose importances are those of all rows, or for
    texts, where the weights that a class needs are those that the others need.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=SelectiveSynapticDampening(), forget_dataset=split.forget,
                          retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "selective_synaptic_dampening"
    paper: ClassVar[Paper | None] = Paper(
        "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", "2308.07707"
    )
    one_shot: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "it takes gradients outside of the step that FSDP gathers",
        "deepspeed": "it takes gradients outside of the step that DeepSpeed knows",
    }
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"selection": (1.0, 100.0)}
    arguments: ClassVar[Mapping[str, Any]] = {"update": "all"}

    selection: float | None = setting(
        None,
        "Weights whose importance for forget rows is above α times that for all rows shrink. None: α is found as said above.",
    )
    dampening: float = setting(1.0, "λ: to which share of the balance of both importances a weight shrinks.")
    importance: str = setting(
        "samples",
        "Squares of the gradients of single rows (`samples`), or of the mean of a batch (`batches`, as the authors' code).",
    )
    rows: int = setting(128, "Most rows of each set whose gradients are taken.")

    def __post_init__(self) -> None:
        check_positive(self, "selection", "dampening")
        check_counts(self, "rows")
        if self.importance not in IMPORTANCES:
            raise ValueError(f"`importance={self.importance!r}` is not one of {', '.join(map(repr, IMPORTANCES))}.")

    @torch.no_grad()
    def setup(self, run: UnlearningRun) -> None:
        names = [n for n, p in unwrap(run.model).named_parameters() if p.requires_grad]
        kept = PreparedRows(run.retain_dataset, run.processor, "retain_dataset")
        forget, retain = (self._importance(run, names, rows) for rows in (run.forget_rows, kept))
        share = len(run.forget_rows) / (len(run.forget_rows) + len(kept))
        every = {n: torch.lerp(retain[n], forget[n], share) for n in names}
        if self.selection is not None:
            self._dampen(run, every, forget, self.selection)
        elif not run.reference.forgotten_classes:
            self._dampen(run, every, forget, adaptive_selection(forget, every, dampened_share(share)))
        else:
            self._dampen_while_kept(run, every, forget, dampened_share(share))

    def _dampen(
        self, run: UnlearningRun, every: Mapping[str, Tensor], forget: Mapping[str, Tensor], alpha: float
    ) -> None:
        for name, parameter in unwrap(run.model).named_parameters():
            if name in every:
                dampen(parameter, every[name], forget[name], alpha, self.dampening)
        run.monitor.model_changed()

    def _dampen_while_kept(
        self, run: UnlearningRun, every: Mapping[str, Tensor], forget: Mapping[str, Tensor], share: float
    ) -> None:
        """Shrink as many weights as retain rows bear, up to a share of them that is halved or doubled from `share` on."""
        parameters = {n: p for n, p in unwrap(run.model).named_parameters() if n in every}
        before, kept = {n: p.detach().clone() for n, p in parameters.items()}, run.monitor.share_kept()

        def bears(some: float) -> bool:
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
            self._dampen(run, every, forget, adaptive_selection(forget, every, some))
            now = run.monitor.share_kept()
            return kept is None or now is None or now >= kept - run.args.max_retain_drop

        low, high = 0.0, 1.0
        for _ in range(CHECKS):
            if bears(share):
                low, share = share, min(2 * share, (share + high) / 2)
            else:
                high, share = share, max(share / 2, (low + share) / 2)
        if not bears(low):
            logger.warning("Not even %.2g %% of the weights can shrink without damage to retain rows.", 100 * low)

    def _importance(self, run: UnlearningRun, names: list[str], rows: PreparedRows) -> dict[str, Tensor]:
        """Return the mean squared gradient of each weight over `rows`, in fp32."""
        gradients = SampleGradients(run.model, names)
        sums = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in gradients.parameters.items()}
        sample = Sample(rows, run.processor.collate, self.rows, run.args.seed)
        count = torch.zeros(1, device=run.args.device)
        with eval_mode(gradients.model, recompute=False), torch.enable_grad():
            for batch in sample.batches(run.args.device):
                if self.importance == "batches":
                    size = len(batch["labels"])
                    parts = [{n: g[None] / size for n, g in gradients.total(batch).items()}]
                else:
                    parts = gradients(batch)  # type: ignore[assignment]
                for part in parts:
                    for name, found in part.items():
                        sums[name].add_(found.float().square().sum(0))
                    count += len(found)
        sum_over_processes(count)
        return {n: sum_over_processes(total) / count for n, total in sums.items()}


def dampened_share(forgotten: float) -> float:
    """Return the share of the weights that shrink by ASSD's rule, ln(1 + 100 n_f / n) percent, if a share `forgotten` of the rows is
    to be forgotten."""
    return math.log1p(100 * forgotten) / 100


def adaptive_selection(forget: Mapping[str, Tensor], every: Mapping[str, Tensor], share: float) -> float:
    """Return the α above which a `share` of all weights lies whose I_f / I_D is a number."""
    ratios = torch.cat([(forget[n] / every[n]).flatten() for n in every])
    found = ratios[ratios.isfinite()].cpu().numpy()
    if not len(found):
        raise ValueError("No weight has a gradient on the rows, so nothing tells which ones the forget rows need.")
    rank = int((1 - share) * (len(found) - 1))
    return float(np.partition(found, rank)[rank])


@torch.no_grad()
def dampen(weight: Tensor, every: Tensor, forget: Tensor, alpha: float, dampening: float) -> None:
    """Shrink in place the weights whose importance for forget rows is above `alpha` times that for all rows."""
    factor = (dampening * every / forget).clamp_max(1.0)
    weight.mul_(torch.where(forget > alpha * every, factor, torch.ones_like(factor)).to(weight))

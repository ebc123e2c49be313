"""What the outputs tell about the forget set, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hf_unlearn.metrics.base import LOGITS, SET, UnlearningMetric, flat_audit
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.information_audit import audit


class ForgetInformation(UnlearningMetric):
    """Marginal information Î(Ŷ;Z): whether an output was drawn from forget and retain set together or from retain alone.

    Inputs, one row per sample: `predictions` (n, classes) logits; `sets` (n,) 'forget' or 'retain', test samples do not count.
    Options: `resamples` (1000) of the bootstrap, its `seed` (0), confidence `level` (0.95).
    Output: `forget_information` in nats, at most ln 2; `forget_information_low` and `_high`, its interval; `_null` and
    `_null_high`, mean and upper end where the sets are permuted and nothing is left to find. `_normalised`, the share of what
    disjoint outputs would tell, in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. Where a whole class is
    forgotten that is not 0. It is an estimate on these samples, no bound for one of them.
    Raises ValueError where one of the two sets is missing or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "sets": SET}
    source = "Xu and Strohmer, Machine Unlearning via Information Theoretic Regularization, arXiv 2502.05684."

    def _compute(
        self, *, predictions: Any, sets: Any, resamples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> dict[str, float]:
        retain, forget = (log_p.exp() for log_p, _ in outputs_by_set(predictions, None, sets, ("retain", "forget")))
        origin = ["retain"] * len(retain) + ["forget"] * len(forget)
        found = audit(torch.cat([retain, forget]), origin, marginal=True, resamples=resamples, seed=seed, level=level)
        return flat_audit(found, "forget_information")

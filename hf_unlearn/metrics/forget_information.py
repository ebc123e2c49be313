"""Information on the forget set, as an `evaluate` module."""

import torch

from hf_unlearn.metrics.base import Logits, Sets, UnlearningMetric, flat_audit
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.information_audit import audit


class ForgetInformation(UnlearningMetric):
    """Measure Î(Ŷ;Z) in nats: whether an output was drawn from forget and retain set together or from retain alone.

    Test samples are left out.
    Options:
        resamples: The number of bootstrap draws, by default 1000.
        seed: The seed of the bootstrap and of the permutations, by default 0.
        level: The confidence of the interval, in (0, 1), by default 0.95.
    Output: `forget_information` in nats, at most ln 2; `forget_information_low` and `_high`, its interval; `_null` and
    `_null_high`, mean and upper end for permuted sets, where nothing is left to find; `_normalised`, the share of the
    value for disjoint outputs, in [0, 1]. If a whole class is forgotten, the retrained model's value is not 0. The
    estimate bounds no single sample.
    """

    source = "Xu and Strohmer, Machine Unlearning via Information Theoretic Regularization, arXiv 2502.05684."

    def _compute(
        self, *, predictions: Logits, sets: Sets, resamples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> dict[str, float]:
        retain, forget = (log_p.exp() for log_p, _ in outputs_by_set(predictions, None, sets, ("retain", "forget")))
        origin = ["retain"] * len(retain) + ["forget"] * len(forget)
        found = audit(torch.cat([retain, forget]), origin, marginal=True, resamples=resamples, seed=seed, level=level)
        return flat_audit(found, "forget_information")

"""Zero-retrain forgetting (ZRF), as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import LOGITS, UnlearningMetric
from hf_unlearn.metrics.functional.distance import zero_retrain_forgetting


class ZeroRetrainForgetting(UnlearningMetric):
    """ZRF = 1 − Jensen–Shannon divergence (bits) to a model that was never trained: how random the answers are.

    Inputs, one row per sample of the forget set: `predictions` (n, classes) logits of the unlearned model and `references`
    (n, classes) of an untrained model of the same kind.
    Output: `zero_retrain_forgetting` in [0, 1]; base 2, so that the range is the paper's.
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. 1 is an untrained model's
    answer, which no retrained model gives.
    Raises ValueError where the shapes differ or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": LOGITS}
    source = "Chundawat et al., Can Bad Teaching Induce Forgetting?, arXiv 2205.08096."

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {"zero_retrain_forgetting": zero_retrain_forgetting(predictions, references)}

"""Zero-retrain forgetting (ZRF), as an `evaluate` module."""

from hf_unlearn.metrics.base import Logits, UnlearningMetric, UntrainedLogits
from hf_unlearn.metrics.functional.distance import zero_retrain_forgetting


class ZeroRetrainForgetting(UnlearningMetric):
    """Measure ZRF = 1 − Jensen–Shannon divergence in bits to an untrained model: how random the answers are.

    Use it on the forget set.
    Output: `zero_retrain_forgetting`, in [0, 1]. 1 is the answer of an untrained model, which no retrained model gives.
    """

    source = "Chundawat et al., Can Bad Teaching Induce Forgetting?, arXiv 2205.08096."

    def _compute(self, *, predictions: Logits, references: UntrainedLogits) -> dict[str, float]:
        return {"zero_retrain_forgetting": zero_retrain_forgetting(predictions, references)}

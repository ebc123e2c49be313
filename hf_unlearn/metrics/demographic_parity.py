"""Demographic parity gap, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import demographic_parity_gap


class DemographicParity(UnlearningMetric):
    """Measure the greatest difference between two groups in how often a class is predicted.

    Output: `demographic_parity_gap` = max_c [max_a P(ŷ=c|a) − min_a P(ŷ=c|a)], in [0, 1]; 0 is parity. If the attribute
    goes with the label, a perfect model has a gap above 0.
    """

    source = "Dwork et al., Fairness Through Awareness, arXiv 1104.3913."

    def _compute(self, *, predictions: Predicted, attributes: Attributes) -> dict[str, float]:
        return {"demographic_parity_gap": demographic_parity_gap(predictions, attributes)}

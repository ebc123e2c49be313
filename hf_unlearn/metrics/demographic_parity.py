"""Demographic parity gap, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import demographic_parity_gap


class DemographicParity(UnlearningMetric):
    """Demographic parity gap: the greatest difference between two groups in how often a class is predicted.

    Inputs, one entry per sample: `predictions` (n,) class ids; `attributes` (n,) values of the attribute.
    Output: `demographic_parity_gap` = max_c [max_a P(ŷ=c|a) − min_a P(ŷ=c|a)], in [0, 1]; 0 is parity.
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. Where the attribute goes
    with the label, a perfect model has a gap above 0.
    Raises ValueError where the attribute has one value only.
    """

    columns: ClassVar = {"predictions": CLASS, "attributes": VALUE}
    source = "Dwork et al., Fairness Through Awareness, arXiv 1104.3913."

    def _compute(self, *, predictions: Any, attributes: Any) -> dict[str, float]:
        return {"demographic_parity_gap": demographic_parity_gap(predictions, attributes)}

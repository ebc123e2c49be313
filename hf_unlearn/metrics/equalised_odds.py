"""Equalised odds gap, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import equalised_odds_gap


class EqualisedOdds(UnlearningMetric):
    """Measure the greatest difference between two groups in how samples of one label are answered.

    Output: `equalised_odds_gap` = max_{k,c} [max_a P(ŷ=c|y=k,a) − min_a P(ŷ=c|y=k,a)] and `equal_opportunity_gap`, the
    same over c = k alone; both in [0, 1], 0 is parity. A label is compared between the groups that hold samples of it.
    """

    source = "Hardt, Price, Srebro, Equality of Opportunity in Supervised Learning, arXiv 1610.02413."

    def _compute(self, *, predictions: Predicted, references: TrueClasses, attributes: Attributes) -> dict[str, float]:
        odds, opportunity = equalised_odds_gap(predictions, references, attributes)
        return {"equalised_odds_gap": odds, "equal_opportunity_gap": opportunity}

"""Equalised odds gap, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import equalised_odds_gap


class EqualisedOdds(UnlearningMetric):
    """Equalised odds gap: the greatest difference between two groups in how samples of one label are answered.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `attributes` (n,) values of the attribute.
    Output: `equalised_odds_gap` = max_{k,c} [max_a P(ŷ=c|y=k,a) − min_a P(ŷ=c|y=k,a)] and `equal_opportunity_gap`, the same
    over c = k alone; both in [0, 1], 0 is parity. A label is compared between the groups that hold samples of it.
    Reading: the aim is the retrained model's value; the distance to it counts in both directions.
    Raises ValueError where no label has samples in two groups.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "attributes": VALUE}
    source = "Hardt, Price, Srebro, Equality of Opportunity in Supervised Learning, arXiv 1610.02413."

    def _compute(self, *, predictions: Any, references: Any, attributes: Any) -> dict[str, float]:
        odds, opportunity = equalised_odds_gap(predictions, references, attributes)
        return {"equalised_odds_gap": odds, "equal_opportunity_gap": opportunity}

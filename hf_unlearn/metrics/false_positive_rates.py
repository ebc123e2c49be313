"""False positive rates of groups, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import false_positive_rates


class FalsePositiveRates(UnlearningMetric):
    """False positive rate P(ŷ = positive | y ≠ positive) of every group, and how far the groups lie apart.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `attributes` (n,) values of the attribute.
    Option `positive`: the class id that is raised in error, 1 by default.
    Output: `false_positive_rate` over all samples and `false_positive_rate_of_<value>` of each group, in [0, 1];
    `false_positive_rate_std` (over groups, not weighted) in [0, 0.5]; `false_positive_rate_gap` (greatest minus least) in
    [0, 1]; `false_positive_equality_difference` Σ_a |FPR − FPR_a|, in [0, groups].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions.
    Raises ValueError where a group has no sample of another class.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "attributes": VALUE}
    source = "Dixon et al., Measuring and Mitigating Unintended Bias in Text Classification, AIES 2018."

    def _compute(self, *, predictions: Any, references: Any, attributes: Any, positive: int = 1) -> dict[str, float]:
        groups, overall = false_positive_rates(predictions, references, attributes, positive)
        rates = np.array(list(groups.values()))
        return {
            "false_positive_rate": overall,
            **{f"false_positive_rate_of_{value}": rate for value, rate in groups.items()},
            "false_positive_rate_std": float(rates.std()),
            "false_positive_rate_gap": float(np.ptp(rates)),
            "false_positive_equality_difference": float(np.abs(rates - overall).sum()),
        }

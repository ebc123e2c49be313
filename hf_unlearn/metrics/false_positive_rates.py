"""False positive rates of groups, as an `evaluate` module."""

import numpy as np

from hf_unlearn.metrics.base import Attributes, Predicted, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import false_positive_rates


class FalsePositiveRates(UnlearningMetric):
    """Measure the false positive rate P(ŷ = positive | y ≠ positive) of every group, and how far the groups lie apart.

    Options:
        positive: The class id whose false alarms are counted, by default 1.
    Output: `false_positive_rate` over all samples and `false_positive_rate_of_<value>` of each group, in [0, 1];
    `false_positive_rate_std` over the groups, not weighted, in [0, 0.5]; `false_positive_rate_gap`, greatest minus
    least, in [0, 1]; `false_positive_equality_difference` Σ_a |FPR − FPR_a|, in [0, groups].
    """

    source = "Dixon et al., Measuring and Mitigating Unintended Bias in Text Classification, AIES 2018."

    def _compute(
        self, *, predictions: Predicted, references: TrueClasses, attributes: Attributes, positive: int = 1
    ) -> dict[str, float]:
        groups, overall = false_positive_rates(predictions, references, attributes, positive)
        rates = np.array(list(groups.values()))
        return {
            "false_positive_rate": overall,
            **{f"false_positive_rate_of_{value}": rate for value, rate in groups.items()},
            "false_positive_rate_std": float(rates.std()),
            "false_positive_rate_gap": float(np.ptp(rates)),
            "false_positive_equality_difference": float(np.abs(rates - overall).sum()),
        }

"""Cramér's V, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import cramers_v


class CramersV(UnlearningMetric):
    """Measure Cramér's V between prediction and attribute: sqrt(χ² / (n (min(classes, values) − 1))).

    Output: `cramers_v`, in [0, 1]. It is 0 for independent columns and 1 if each column gives the other. There is no
    bias correction: for n samples, independent columns give about sqrt(max(classes, values) / n). A model with one
    answer for everything has 0. If the attribute goes with the label itself, a perfect model has a value above 0.
    """

    source = (
        "Cramér, Mathematical Methods of Statistics, Princeton 1946, chapter 21; computed by scipy.stats.contingency."
    )

    def _compute(self, *, predictions: Predicted, attributes: Attributes) -> dict[str, float]:
        return {"cramers_v": cramers_v(predictions, attributes)}

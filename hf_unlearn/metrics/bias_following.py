"""Bias following, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import LabelMapping, bias_following


class BiasFollowing(UnlearningMetric):
    """Measure P(ŷ = y_b | y ≠ y_b), how often a misleading attribute decides; y_b is the label that it points to.

    Options:
        mapping: The label that each value of the attribute points to, None or -1 for none. Samples that point to none
            are left out. By default `attributes` holds the labels themselves.
    Output: `bias_following`, in [0, 1]. A model that errs without regard to the attribute has a value above 0.
    """

    source = "Han et al., Unlearning Information Bottleneck, arXiv 2405.14020 (bias correlation); this form is derived."

    def _compute(
        self, *, predictions: Predicted, references: TrueClasses, attributes: Attributes, mapping: LabelMapping = None
    ) -> dict[str, float]:
        return {"bias_following": bias_following(predictions, references, attributes, mapping)}

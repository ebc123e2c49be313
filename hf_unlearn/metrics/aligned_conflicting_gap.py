"""Accuracy on bias-aligned minus bias-conflicting samples, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import LabelMapping, aligned_conflicting_accuracy


class AlignedConflictingGap(UnlearningMetric):
    """Measure the accuracy where the attribute points to the label, minus that where it points to another label.

    Options:
        mapping: The label that each value of the attribute points to, None or -1 for none. Samples that point to none
            are left out. By default `attributes` holds the labels themselves.
    Output: `aligned_accuracy` and `conflicting_accuracy` in [0, 1]; `aligned_conflicting_gap`, their difference, in
    [-1, 1]. A gap below 0 is a model that turns against the attribute.
    """

    source = "Nam et al., Learning from Failure: Training Debiased Classifier from Biased Classifier, arXiv 2007.02561."

    def _compute(
        self, *, predictions: Predicted, references: TrueClasses, attributes: Attributes, mapping: LabelMapping = None
    ) -> dict[str, float]:
        aligned, conflicting = aligned_conflicting_accuracy(predictions, references, attributes, mapping)
        return {
            "aligned_accuracy": aligned,
            "conflicting_accuracy": conflicting,
            "aligned_conflicting_gap": aligned - conflicting,
        }

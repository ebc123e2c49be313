"""Worst-group accuracy, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Predicted, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import worst_group_accuracy


class WorstGroupAccuracy(UnlearningMetric):
    """Measure the lowest accuracy of any group, for groups of attribute × label and of the attribute alone.

    Output: `worst_group_accuracy` (attribute × label) and `worst_attribute_accuracy` (attribute alone), in [0, 1], with
    the number of samples in the group that sets each, `worst_group_samples` and `worst_attribute_samples`: a share of
    few samples says little. Groups without samples do not count.
    """

    source = "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, arXiv 1911.08731."

    def _compute(self, *, predictions: Predicted, references: TrueClasses, attributes: Attributes) -> dict[str, float]:
        out: dict[str, float] = {}
        for name, by_label in (("worst_group", True), ("worst_attribute", False)):
            accuracy, samples = worst_group_accuracy(predictions, references, attributes, by_label)
            out |= {f"{name}_accuracy": accuracy, f"{name}_samples": samples}
        return out

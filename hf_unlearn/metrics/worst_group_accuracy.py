"""Worst-group accuracy, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import worst_group_accuracy


class WorstGroupAccuracy(UnlearningMetric):
    """Lowest accuracy of any group: attribute × label, and the attribute alone.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `attributes` (n,) values of the attribute.
    Output: `worst_group_accuracy` (attribute × label) and `worst_attribute_accuracy` (attribute alone), in [0, 1], with the
    samples of the group that set each, `worst_group_samples` and `worst_attribute_samples`: a share of few samples says
    little. Groups without samples do not count.
    Reading: the aim is the retrained model's value; the distance to it counts in both directions.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "attributes": VALUE}
    source = "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, arXiv 1911.08731."

    def _compute(self, *, predictions: Any, references: Any, attributes: Any) -> dict[str, float]:
        out: dict[str, float] = {}
        for name, by_label in (("worst_group", True), ("worst_attribute", False)):
            accuracy, samples = worst_group_accuracy(predictions, references, attributes, by_label)
            out |= {f"{name}_accuracy": accuracy, f"{name}_samples": samples}
        return out

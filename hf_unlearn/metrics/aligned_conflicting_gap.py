"""Accuracy on bias-aligned minus bias-conflicting samples, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import aligned_conflicting_accuracy


class AlignedConflictingGap(UnlearningMetric):
    """Accuracy where the attribute points to the label, minus accuracy where it points to another label.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `attributes` (n,) values of the attribute.
    Option `mapping`: value -> label, None or -1 for a value that points to none (those samples are left out). Without it
    `attributes` holds the labels themselves.
    Output: `aligned_accuracy` and `conflicting_accuracy` in [0, 1]; `aligned_conflicting_gap`, their difference, in [-1, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. A gap below 0 is a model
    that turns against the attribute.
    Raises ValueError where either kind of sample is missing, or a value has no place in `mapping`.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "attributes": VALUE}
    source = "Nam et al., Learning from Failure: Training Debiased Classifier from Biased Classifier, arXiv 2007.02561."

    def _compute(
        self, *, predictions: Any, references: Any, attributes: Any, mapping: Mapping[Any, int | None] | None = None
    ) -> dict[str, float]:
        aligned, conflicting = aligned_conflicting_accuracy(predictions, references, attributes, mapping)
        return {
            "aligned_accuracy": aligned,
            "conflicting_accuracy": conflicting,
            "aligned_conflicting_gap": aligned - conflicting,
        }

"""Unlearning accuracy, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, SET, UnlearningMetric
from hf_unlearn.metrics.functional.accuracy import unlearning_accuracy
from hf_unlearn.metrics.functional.checked_arrays import rows_by_set, to_numpy


class UnlearningAccuracy(UnlearningMetric):
    """Unlearning accuracy UA = 1 − accuracy on the forget set.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `sets` (n,) 'forget', 'retain' or 'test', of
    which the forget samples count; without it every sample is of the forget set.
    Output: `unlearning_accuracy`, a share in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. For a random forget set
    that is near 1 − test accuracy, not 1.
    Raises ValueError where there is no forget sample.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "sets": SET}
    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934."

    def _compute(self, *, predictions: Any, references: Any, sets: Any = None) -> dict[str, float]:
        if sets is not None:
            rows = rows_by_set(sets, ("forget",))["forget"]
            predictions = to_numpy(predictions, "predictions")[rows]
            references = to_numpy(references, "references")[rows]
        return {"unlearning_accuracy": unlearning_accuracy(predictions, references)}

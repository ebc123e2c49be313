"""Unlearning accuracy, as an `evaluate` module."""

from hf_unlearn.metrics.base import Predicted, Sets, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.accuracy import unlearning_accuracy
from hf_unlearn.metrics.functional.checked_arrays import rows_by_set, to_numpy


class UnlearningAccuracy(UnlearningMetric):
    """Measure the unlearning accuracy UA = 1 − accuracy on the forget set.

    Only the forget samples of `sets` count. Without `sets` every sample is a forget sample.
    Output: `unlearning_accuracy`, in [0, 1]. For a random forget set the retrained model's value is near 1 − test
    accuracy, not 1.
    """

    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934."

    def _compute(self, *, predictions: Predicted, references: TrueClasses, sets: Sets = None) -> dict[str, float]:
        if sets is not None:
            rows = rows_by_set(sets, ("forget",))["forget"]
            predictions = to_numpy(predictions, "predictions")[rows]
            references = to_numpy(references, "references")[rows]
        return {"unlearning_accuracy": unlearning_accuracy(predictions, references)}

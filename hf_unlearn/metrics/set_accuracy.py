"""Accuracy and macro F1 of the forget, retain and test set, as an `evaluate` module."""

from hf_unlearn.metrics.base import Predicted, Sets, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.accuracy import accuracy, macro_f1
from hf_unlearn.metrics.functional.checked_arrays import rows_by_set, to_numpy


class SetAccuracy(UnlearningMetric):
    """Measure the accuracy and macro F1 of the forget, retain and test set.

    Output: for each set that occurs `<set>_accuracy` and `<set>_f1`, the mean F1 over the classes among its labels; in
    [0, 1].
    """

    source = "F1: van Rijsbergen, Information Retrieval, Butterworths 1979, chapter 7; computed by scikit-learn."

    def _compute(self, *, predictions: Predicted, references: TrueClasses, sets: Sets) -> dict[str, float]:
        predicted, true = to_numpy(predictions, "predictions"), to_numpy(references, "references")
        out: dict[str, float] = {}
        for name, rows in rows_by_set(sets).items():
            out[f"{name}_accuracy"] = accuracy(predicted[rows], true[rows])
            out[f"{name}_f1"] = macro_f1(predicted[rows], true[rows])
        return out

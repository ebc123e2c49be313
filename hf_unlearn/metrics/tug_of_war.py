"""Tug of war (ToW), as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import MEASURE, UnlearningMetric
from hf_unlearn.metrics.functional.distance import tug_of_war


class TugOfWar(UnlearningMetric):
    """ToW = Π (1 − |accuracy − accuracy of the retrained model|) over the forget, retain and test set.

    Inputs, one entry per set: `predictions` (k,) accuracies of the unlearned model and `references` (k,) of the retrained one,
    in [0, 1] and in the same order. As published: forget, retain, test.
    Output: `tug_of_war` in [0, 1].
    Reading: a distance to the retrained model's values already, 1 at the retrained model; it falls where a set is better than
    the retrained model as where it is worse.
    Raises ValueError where an accuracy is outside [0, 1].
    """

    columns: ClassVar = {"predictions": MEASURE, "references": MEASURE}
    source = "Zhao et al., What Makes Unlearning Hard and What to Do About It, arXiv 2406.01257."

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {"tug_of_war": tug_of_war(predictions, references)}

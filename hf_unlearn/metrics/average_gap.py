"""Average gap to the retrained model, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import MEASURE, UnlearningMetric
from hf_unlearn.metrics.functional.distance import average_gap


class AverageGap(UnlearningMetric):
    """Avg. Gap: mean absolute difference to the retrained model over several measures.

    Inputs, one entry per measure: `predictions` (k,) of the unlearned model and `references` (k,) of the retrained one, in the
    same order and one unit. As published: unlearning accuracy, retain accuracy, test accuracy, membership attack.
    Output: `average_gap`, in the unit of the inputs, ≥ 0; for shares in [0, 1].
    Reading: a distance to the retrained model's values already, 0 at the retrained model. Two retrained models differ too:
    their gap is the least that can be told apart.
    """

    columns: ClassVar = {"predictions": MEASURE, "references": MEASURE}
    source = "Fan et al., SalUn, arXiv 2310.12508."

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {"average_gap": average_gap(predictions, references)}

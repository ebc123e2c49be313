"""Tug of war (ToW), as an `evaluate` module."""

from hf_unlearn.metrics.base import IS_DISTANCE, Measures, RetrainedMeasures, UnlearningMetric
from hf_unlearn.metrics.functional.distance import tug_of_war


class TugOfWar(UnlearningMetric):
    """Measure ToW = Π (1 − |accuracy − accuracy of the retrained model|) over the forget, retain and test set.

    The measures are the accuracies on these sets, in [0, 1].
    Output: `tug_of_war`, in [0, 1], 1 at the retrained model. It falls if a set is better than with the retrained
    model, and if it is worse.
    """

    reading = IS_DISTANCE
    source = "Zhao et al., What Makes Unlearning Hard and What to Do About It, arXiv 2406.01257."

    def _compute(self, *, predictions: Measures, references: RetrainedMeasures) -> dict[str, float]:
        return {"tug_of_war": tug_of_war(predictions, references)}

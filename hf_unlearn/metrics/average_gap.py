"""Average gap to the retrained model, as an `evaluate` module."""

from hf_unlearn.metrics.base import IS_DISTANCE, Measures, RetrainedMeasures, UnlearningMetric
from hf_unlearn.metrics.functional.distance import average_gap


class AverageGap(UnlearningMetric):
    """Measure Avg. Gap, the mean absolute difference to the retrained model over several measures.

    The published measures are unlearning accuracy, retain accuracy, test accuracy and a membership attack.
    Output: `average_gap`, in the unit of the measures, ≥ 0; for shares in [0, 1].
    """

    reading = IS_DISTANCE
    source = "Fan et al., SalUn, arXiv 2310.12508."

    def _compute(self, *, predictions: Measures, references: RetrainedMeasures) -> dict[str, float]:
        return {"average_gap": average_gap(predictions, references)}

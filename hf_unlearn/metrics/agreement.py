"""Agreement with the retrained model, as an `evaluate` module."""

from hf_unlearn.metrics.base import IS_DISTANCE, Logits, RetrainedLogits, UnlearningMetric
from hf_unlearn.metrics.functional.distance import agreement


class Agreement(UnlearningMetric):
    """Measure the share of samples for which two models have the same most likely class.

    Use it on the forget set.
    Output: `agreement`, in [0, 1].
    """

    reading = IS_DISTANCE
    source = (
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, arXiv 1911.04933 (readouts of two models)."
    )

    def _compute(self, *, predictions: Logits, references: RetrainedLogits) -> dict[str, float]:
        return {"agreement": agreement(predictions, references)}

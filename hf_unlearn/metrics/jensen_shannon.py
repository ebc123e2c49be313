"""Jensen–Shannon divergence and distance to the retrained model, as an `evaluate` module."""

from hf_unlearn.metrics.base import IS_DISTANCE, Logits, RetrainedLogits, UnlearningMetric
from hf_unlearn.metrics.functional.distance import jensen_shannon, jensen_shannon_distance


class JensenShannon(UnlearningMetric):
    """Measure the Jensen–Shannon divergence and distance of two models' class distributions, mean over samples.

    Use it on the forget set.
    Output: `jensen_shannon_divergence` in nats, in [0, ln 2], and `jensen_shannon_distance`, the mean of
    sqrt(divergence / ln 2) of each sample, in [0, 1].
    """

    reading = IS_DISTANCE
    source = "Endres and Schindelin, A New Metric for Probability Distributions, IEEE Trans. Inf. Theory 49(7), 2003."

    def _compute(self, *, predictions: Logits, references: RetrainedLogits) -> dict[str, float]:
        return {
            "jensen_shannon_divergence": jensen_shannon(predictions, references),
            "jensen_shannon_distance": jensen_shannon_distance(predictions, references),
        }

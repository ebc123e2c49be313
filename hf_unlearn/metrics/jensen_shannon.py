"""Jensen–Shannon divergence and distance to the retrained model, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import LOGITS, UnlearningMetric
from hf_unlearn.metrics.functional.distance import jensen_shannon, jensen_shannon_distance


class JensenShannon(UnlearningMetric):
    """Jensen–Shannon divergence and distance between two models' class distributions, mean over samples.

    Inputs, one row per sample: `predictions` (n, classes) logits of the unlearned model and `references` (n, classes) of the
    retrained one, on the same samples, mostly the forget set. Log-probabilities do as well.
    Output: `jensen_shannon_divergence` in nats, in [0, ln 2], and `jensen_shannon_distance` = sqrt(divergence / ln 2) of each
    sample, in [0, 1].
    Reading: a distance to the retrained model already. Two retrained models differ too: their distance is the least that can
    be told apart.
    Raises ValueError where the shapes differ or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": LOGITS}
    source = "Endres and Schindelin, A New Metric for Probability Distributions, IEEE Trans. Inf. Theory 49(7), 2003."

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {
            "jensen_shannon_divergence": jensen_shannon(predictions, references),
            "jensen_shannon_distance": jensen_shannon_distance(predictions, references),
        }

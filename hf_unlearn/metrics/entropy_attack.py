"""Entropy membership inference attack, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import LOGITS, SET, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import entropy_attack


class EntropyAttack(UnlearningMetric):
    """Entropy attack: share of forget samples that a logistic regression on the prediction entropy calls members.

    Inputs, one row per sample: `predictions` (n, classes) logits of one model; `sets` (n,) 'forget', 'retain' or 'test'. The
    regression (balanced classes) learns members from the retain samples and non-members from the test samples.
    Output: `entropy_attack`, a share in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. Far below it, the forget
    samples stand out by their uncertainty.
    Raises ValueError where one of the three sets is missing or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "sets": SET}
    source = "Foster et al., An Information Theoretic Approach to Machine Unlearning, arXiv 2402.01401."

    def _compute(self, *, predictions: Any, sets: Any) -> dict[str, float]:
        return {"entropy_attack": entropy_attack(*(logits for logits, _ in outputs_by_set(predictions, None, sets)))}

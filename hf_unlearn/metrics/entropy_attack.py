"""Entropy attack, as an `evaluate` module."""

from hf_unlearn.metrics.base import Logits, Sets, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import entropy_attack


class EntropyAttack(UnlearningMetric):
    """Measure the share of forget samples that a logistic regression on the prediction entropy calls members.

    The regression (balanced classes) learns members from the retain samples and non-members from the test samples.
    Output: `entropy_attack`, in [0, 1]. Far below the retrained model's value, the forget samples stand out by their
    uncertainty.
    """

    source = "Foster et al., An Information Theoretic Approach to Machine Unlearning, arXiv 2402.01401."

    def _compute(self, *, predictions: Logits, sets: Sets) -> dict[str, float]:
        return {"entropy_attack": entropy_attack(*(logits for logits, _ in outputs_by_set(predictions, None, sets)))}

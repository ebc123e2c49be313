"""MIA efficacy, as an `evaluate` module."""

from hf_unlearn.metrics.base import Logits, Sets, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import mia_efficacy


class MIAEfficacy(UnlearningMetric):
    """Measure the share of forget samples that a support vector machine calls non-members.

    SVC(C=3, rbf, gamma='auto') learns members from as many retain samples as there are test samples, and non-members
    from those.
    Options:
        feature: The feature that the machine sees: 'confidence' (default: the probability of the true label),
            'correctness', 'entropy', 'modified_entropy' or 'probabilities'.
        seed: The seed of the draw of retain samples, by default 0.
    Output: `mia_efficacy`, in [0, 1].
    """

    source = "Jia et al., arXiv 2304.04934; Fan et al., SalUn, arXiv 2310.12508."

    def _compute(
        self, *, predictions: Logits, references: TrueClasses, sets: Sets, feature: str = "confidence", seed: int = 0
    ) -> dict[str, float]:
        retain, test, forget = outputs_by_set(predictions, references, sets)
        return {"mia_efficacy": mia_efficacy(retain, test, forget, feature, seed)}

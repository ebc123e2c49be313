"""Loss-threshold attack, as an `evaluate` module."""

from hf_unlearn.metrics.base import Logits, Sets, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import threshold_attack


class LossAttack(UnlearningMetric):
    """Measure how well the cross-entropy tells forget samples from test samples.

    Output: `loss_attack_auc`, 0.5 if forget samples look like test samples; `loss_attack_tpr_at_1_percent_fpr` and
    `loss_attack_tpr_at_0.1_percent_fpr`, the share of forget samples found with at most that share of test samples
    called members (with fewer than 100 or 1,000 test samples: with none); `loss_attack_called_members`, the share of
    forget samples under the threshold that best tells retain from test samples. All in [0, 1]. An AUC below the
    retrained model's is over-forgetting. A threshold on the population understates what an attack on single samples
    finds.
    """

    source = "Yeom et al., Privacy Risk in Machine Learning, arXiv 1709.01604; threshold placed as in arXiv 2003.10595."

    def _compute(self, *, predictions: Logits, references: TrueClasses, sets: Sets) -> dict[str, float]:
        retain, test, forget = outputs_by_set(predictions, references, sets)
        found = threshold_attack(retain, test, forget, "loss")
        return {f"loss_attack_{name}": value for name, value in found.items()}

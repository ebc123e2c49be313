"""Modified-entropy attack with a threshold per class, as an `evaluate` module."""

from hf_unlearn.metrics.base import Logits, Sets, TrueClasses, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import threshold_attack


class ModifiedEntropyAttack(UnlearningMetric):
    """Measure how well −(1−p_y) log p_y − Σ_{i≠y} p_i log(1−p_i) tells forget samples from test samples.

    Each class has its own threshold, which best tells its retain from its test samples. A class that lacks one of the
    two, such as a forgotten one, takes the common threshold.
    Output: each with `modified_entropy_attack_` in front, `auc`, 0.5 if forget samples look like test samples;
    `tpr_at_1_percent_fpr` and `tpr_at_0.1_percent_fpr`, the share of forget samples found with at most that share of
    test samples called members, all thresholds moved together (with fewer than 100 or 1,000 test samples: with none);
    `called_members`, the share of forget samples under their threshold. All in [0, 1]. An AUC below the retrained
    model's is over-forgetting. A threshold on the population understates what an attack on single samples finds.
    """

    source = "Song and Mittal, Systematic Evaluation of Privacy Risks of Machine Learning Models, arXiv 2003.10595."

    def _compute(self, *, predictions: Logits, references: TrueClasses, sets: Sets) -> dict[str, float]:
        retain, test, forget = outputs_by_set(predictions, references, sets)
        found = threshold_attack(retain, test, forget, "modified_entropy", per_class=True)
        return {f"modified_entropy_attack_{name}": value for name, value in found.items()}

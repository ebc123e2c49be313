"""Modified-entropy attack with a threshold per class, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, LOGITS, SET, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import threshold_attack


class ModifiedEntropyAttack(UnlearningMetric):
    """Modified-entropy attack: forget samples told from test samples by −(1−p_y) log p_y − Σ_{i≠y} p_i log(1−p_i).

    Inputs, one row per sample: `predictions` (n, classes) logits of one model; `references` (n,) class ids; `sets` (n,)
    'forget', 'retain' or 'test'. Each class has its own threshold, where retain samples are told from test samples best; a
    class that one of the two lacks, such as a forgotten one, takes the common threshold.
    Output: each with `modified_entropy_attack_` in front, `auc`, 0.5 where forget samples look like test samples;
    `tpr_at_1_percent_fpr` and `tpr_at_0.1_percent_fpr`, forget samples found with at most that share of test samples called
    members, all thresholds moved together (with fewer than 100 or 1,000 test samples: with none); `called_members`, forget
    samples under their threshold. All in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. An AUC below the retrained
    model's is over-forgetting. A threshold on the population understates what an attack on single samples finds.
    Raises ValueError where one of the three sets is missing, a logit is NaN, or a label is no class.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": CLASS, "sets": SET}
    source = "Song and Mittal, Systematic Evaluation of Privacy Risks of Machine Learning Models, arXiv 2003.10595."

    def _compute(self, *, predictions: Any, references: Any, sets: Any) -> dict[str, float]:
        outputs = outputs_by_set(predictions, references, sets)
        found = threshold_attack(*outputs, score="modified_entropy", per_class=True)
        return {f"modified_entropy_attack_{name}": value for name, value in found.items()}

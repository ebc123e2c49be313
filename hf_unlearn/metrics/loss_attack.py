"""Loss-threshold attack, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, LOGITS, SET, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import threshold_attack


class LossAttack(UnlearningMetric):
    """Loss-threshold attack: forget samples told from test samples by their cross-entropy.

    Inputs, one row per sample: `predictions` (n, classes) logits of one model; `references` (n,) class ids; `sets` (n,)
    'forget', 'retain' or 'test'.
    Output: `loss_attack_auc`, 0.5 where forget samples look like test samples; `loss_attack_tpr_at_1_percent_fpr` and
    `loss_attack_tpr_at_0.1_percent_fpr`, forget samples found with at most that share of test samples called members (with
    fewer than 100 or 1,000 test samples: with none); `loss_attack_called_members`, forget samples under the threshold that
    tells retain from test samples best. All in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. An AUC below the retrained
    model's is over-forgetting. A threshold on the population understates what an attack on single samples finds.
    Raises ValueError where one of the three sets is missing, a logit is NaN, or a label is no class.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": CLASS, "sets": SET}
    source = "Yeom et al., Privacy Risk in Machine Learning, arXiv 1709.01604; threshold placed as in arXiv 2003.10595."

    def _compute(self, *, predictions: Any, references: Any, sets: Any) -> dict[str, float]:
        found = threshold_attack(*outputs_by_set(predictions, references, sets), score="loss")
        return {f"loss_attack_{name}": value for name, value in found.items()}

"""MIA efficacy, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, LOGITS, SET, UnlearningMetric
from hf_unlearn.metrics.functional.checked_arrays import outputs_by_set
from hf_unlearn.metrics.functional.membership import mia_efficacy


class MIAEfficacy(UnlearningMetric):
    """MIA efficacy: share of forget samples that a support vector machine calls non-members.

    Inputs, one row per sample: `predictions` (n, classes) logits of one model; `references` (n,) class ids; `sets` (n,)
    'forget', 'retain' or 'test'. SVC(C=3, rbf, gamma='auto') learns members from as many retain samples as there are test
    samples, and non-members from the test samples.
    Options: `feature` that it looks at, 'confidence' (default: probability of the true label), 'correctness', 'entropy',
    'modified_entropy' or 'probabilities'; `seed` of the draw of retain samples.
    Output: `mia_efficacy`, a share in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions.
    Raises ValueError where one of the three sets is missing, a logit is NaN, or a label is no class.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": CLASS, "sets": SET}
    source = "Jia et al., arXiv 2304.04934; Fan et al., SalUn, arXiv 2310.12508."

    def _compute(
        self, *, predictions: Any, references: Any, sets: Any, feature: str = "confidence", seed: int = 0
    ) -> dict[str, float]:
        outputs = outputs_by_set(predictions, references, sets)
        return {"mia_efficacy": mia_efficacy(*outputs, feature=feature, seed=seed)}

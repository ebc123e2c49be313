"""Agreement with the retrained model, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import LOGITS, UnlearningMetric
from hf_unlearn.metrics.functional.distance import agreement


class Agreement(UnlearningMetric):
    """Share of samples to which two models give the same answer.

    Inputs, one row per sample: `predictions` (n, classes) logits of the unlearned model and `references` (n, classes) of the
    retrained one, on the same samples, mostly the forget set.
    Output: `agreement`, a share in [0, 1].
    Reading: a distance to the retrained model already. Two retrained models do not agree everywhere: theirs is the most that
    can be asked for.
    Raises ValueError where the shapes differ or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": LOGITS}
    source = (
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, arXiv 1911.04933 (readouts of two models)."
    )

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {"agreement": agreement(predictions, references)}

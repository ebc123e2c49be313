"""Cramér's V between prediction and attribute, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import cramers_v


class CramersV(UnlearningMetric):
    """Cramér's V, the strength of the association between prediction and attribute: sqrt(χ² / (n (min(classes, values) − 1))).

    Inputs, one entry per sample: `predictions` (n,) class ids; `attributes` (n,) values of the attribute.
    Output: `cramers_v` in [0, 1]: 0 independent, 1 each tells the other. Without bias correction: on n samples independent
    columns give about sqrt(max(classes, values) / n). A model with one answer for everything has 0.
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. Where the attribute goes
    with the label itself, a perfect model has a V above 0.
    Raises ValueError where the attribute has one value only.
    """

    columns: ClassVar = {"predictions": CLASS, "attributes": VALUE}
    source = (
        "Cramér, Mathematical Methods of Statistics, Princeton 1946, chapter 21; computed by scipy.stats.contingency."
    )

    def _compute(self, *, predictions: Any, attributes: Any) -> dict[str, float]:
        return {"cramers_v": cramers_v(predictions, attributes)}

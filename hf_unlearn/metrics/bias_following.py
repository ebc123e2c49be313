"""Bias following, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, VALUE, UnlearningMetric
from hf_unlearn.metrics.functional.fairness import bias_following


class BiasFollowing(UnlearningMetric):
    """Bias following P(ŷ = y_b | y ≠ y_b): how often a misleading attribute decides, y_b the label that it points to.

    Inputs, one entry per sample: `predictions` and `references` (n,) class ids; `attributes` (n,) values of the attribute.
    Option `mapping`: value -> label, None or -1 for a value that points to none (those samples are left out). Without it
    `attributes` holds the labels themselves.
    Output: `bias_following`, a share in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. A model that errs without
    looking at the attribute has a value above 0.
    Raises ValueError where no sample is bias-conflicting, or a value has no place in `mapping`.
    """

    columns: ClassVar = {"predictions": CLASS, "references": CLASS, "attributes": VALUE}
    source = "Han et al., Unlearning Information Bottleneck, arXiv 2405.14020 (bias correlation); this form is derived."

    def _compute(
        self, *, predictions: Any, references: Any, attributes: Any, mapping: Mapping[Any, int | None] | None = None
    ) -> dict[str, float]:
        return {"bias_following": bias_following(predictions, references, attributes, mapping)}

"""What the outputs tell about an attribute, as an `evaluate` module."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_unlearn.metrics.base import CLASS, LOGITS, VALUE, UnlearningMetric, flat_audit
from hf_unlearn.metrics.functional.checked_arrays import class_ids, group_codes, log_probabilities
from hf_unlearn.metrics.functional.information_audit import audit


class InformationAudit(UnlearningMetric):
    """Mutual information I(Ŷ;Z) between the answer and an attribute, or, with labels, I(Ŷ;Z|Y) beyond the label.

    Inputs, one row per sample: `predictions` (n, classes) logits; `attributes` (n,) values of the attribute Z; `references`
    (n,) class ids, left out for the information without regard to the label.
    Options: `resamples` (1000) of the bootstrap, its `seed` (0), confidence `level` (0.95).
    Output: `information` in nats, at most ln(classes) and H(Z); `information_low` and `information_high`, its interval;
    `information_null` and `information_null_high`, mean and upper end where the attribute is permuted and nothing is left to
    find. `information_normalised`, the share of the greatest possible, in [0, 1].
    Reading: the aim is the retrained model's value; the distance to it counts in both directions. A value under
    `information_null_high` is not told apart from 0.
    Raises ValueError where the attribute has one value only, a value is missing, or a logit is NaN.
    """

    columns: ClassVar = {"predictions": LOGITS, "references": CLASS, "attributes": VALUE}
    source = "Xu and Strohmer, Machine Unlearning via Information Theoretic Regularization, arXiv 2502.05684."

    def _compute(
        self,
        *,
        predictions: Any,
        attributes: Any,
        references: Any = None,
        resamples: int = 1000,
        seed: int = 0,
        level: float = 0.95,
    ) -> dict[str, float]:
        p = log_probabilities(predictions, "predictions").exp()
        names, groups = group_codes(attributes, "attributes")
        if len(names) < 2:
            raise ValueError(f"`attributes` is {names[0]!r} in every sample: there is nothing to tell. Add the others.")
        labels = None if references is None else class_ids(references, "references").tolist()
        return flat_audit(audit(p, groups.tolist(), labels, resamples=resamples, seed=seed, level=level))

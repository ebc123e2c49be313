"""Information on an attribute, as an `evaluate` module."""

from hf_unlearn.metrics.base import Attributes, Logits, TrueClasses, UnlearningMetric, flat_audit
from hf_unlearn.metrics.functional.checked_arrays import class_ids, group_codes, log_probabilities
from hf_unlearn.metrics.functional.information_audit import audit


class InformationAudit(UnlearningMetric):
    """Measure the information I(Ŷ;Z) in nats between answer and attribute, or, with labels, I(Ŷ;Z|Y) beyond the label.

    `references` may be left out, for the information without regard to the label.
    Options:
        resamples: The number of bootstrap draws, by default 1000.
        seed: The seed of the bootstrap and of the permutations, by default 0.
        level: The confidence of the interval, in (0, 1), by default 0.95.
    Output: `information` in nats, at most ln(classes) and H(Z); `information_low` and `information_high`, its interval;
    `information_null` and `information_null_high`, mean and upper end for a permuted attribute, where nothing is left
    to find. A value under `information_null_high` cannot be told from 0. `information_normalised`, the share of the
    greatest possible value, in [0, 1].
    """

    source = "Xu and Strohmer, Machine Unlearning via Information Theoretic Regularization, arXiv 2502.05684."

    def _compute(
        self,
        *,
        predictions: Logits,
        references: TrueClasses = None,
        attributes: Attributes,
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

"""How well scores tell members from others: ROC, AUC, and true positives at few false ones, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .intervals import share_limits

CURVE = np.concatenate([[0.0], np.logspace(-5, 0, 201)])  # false positive rates at which a curve is kept


@dataclass(frozen=True)
class Roc:
    """The ROC of the scores of one attack.

    An AUC of 0.5 is chance. Below 0.5 the attack is wrong more often than a coin, which is information too. The
    intervals take the scores as independent, so give the scores of one attacked model. The interval of a true positive
    rate holds for the threshold that the others set.

    Attributes:
        auc: The share of (member, other) pairs in which the member scores higher, ties counted half.
        auc_low, auc_high: The ends of the interval of `auc`.
        tpr: For each false positive rate the share of members found, and the ends of its interval. With fewer than
            1/rate others no false positive is allowed, and the share is that of members above every other.
        curve: False positive rates, and the highest true positive rate at each, in [0, 1].
        members, others: The number of scores on each side.
        level: The confidence of the intervals.
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: dict[float, tuple[float, float, float]]
    curve: tuple[list[float], list[float]]
    members: int
    others: int
    level: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


def roc(members: Any, others: Any, *, rates: Sequence[float] = (0.01, 0.001), level: float = 0.95) -> Roc:
    """Return the ROC of scores that should be high for members.

    The interval of the AUC is DeLong's (Biometrics 1988) on the log-odds scale, where it stays inside (0, 1). If the
    scores are separated without error, that interval has no width: then it is the exact bound of min(members, others)
    disjoint pairs, all in order. The interval of a true positive rate is Clopper and Pearson's.

    Args:
        members: The scores of the members, of any shape.
        others: The scores of the others, of any shape.
        rates: The false positive rates of `Roc.tpr`, in (0, 1), by default 1 % and 0.1 %.
        level: The confidence of the intervals, in (0, 1), by default 0.95.

    Raises:
        ValueError: A side has fewer than two scores or NaN, or a rate or the level is outside (0, 1). Infinite scores
            are valid.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}. The usual value is 0.95.")
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"`rates` must lie strictly between 0 and 1, got {rate}. For 1 % write 0.01.")
    members, others = _sorted(members, "members"), _sorted(others, "others")
    auc, auc_low, auc_high = _auc(members, others, level)
    found = {}
    for rate, share in zip(rates, true_positives(members, others, np.asarray(rates)), strict=True):
        low, high = share_limits(round(share * len(members)), len(members), level)
        found[float(rate)] = (float(share), float(low), float(high))
    curve = (CURVE.tolist(), true_positives(members, others, CURVE).tolist())
    return Roc(auc, auc_low, auc_high, found, curve, len(members), len(others), level)


def true_positives(members: np.ndarray, others: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return the greatest share (k,) of members over a threshold that at most `rates` (k,) of others exceed; both sorted."""
    allowed = np.floor(rates * len(others) + 1e-9).astype(int)  # 1e-9: 0.001 * 3000 may come out below 3
    # Members must lie strictly above the first other that is too many, so ties at the threshold do not count.
    thresholds = np.concatenate([others[::-1], [-np.inf]])[allowed]
    shares = 1 - np.searchsorted(members, thresholds, side="right") / len(members)
    return np.where(allowed >= len(others), 1.0, shares)


def placements(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of others below each member, and of members above each other, ties counted half; both sorted.

    The mean of either is the AUC. Their variances give that of DeLong et al. (Biometrics 1988).
    """

    def below(x: np.ndarray, among: np.ndarray) -> np.ndarray:
        return (np.searchsorted(among, x, "left") + np.searchsorted(among, x, "right")) / (2 * len(among))

    return below(members, others), 1 - below(others, members)


def _auc(members: np.ndarray, others: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return the AUC and the ends of its interval; both sides sorted."""
    from scipy.special import expit, logit
    from scipy.stats import norm

    below, above = placements(members, others)
    auc = float(below.mean())
    if not 0 < auc < 1:
        bound = ((1 - level) / 2) ** (1 / min(len(members), len(others)))
        return (auc, bound, 1.0) if auc == 1 else (auc, 0.0, 1 - bound)
    error = math.sqrt(below.var(ddof=1) / len(members) + above.var(ddof=1) / len(others))
    half = norm.ppf((1 + level) / 2) * error / (auc * (1 - auc))
    return auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half))


def _sorted(scores: Any, name: str) -> np.ndarray:
    values = np.sort(np.asarray(scores), axis=None)
    if len(values) < 2:
        raise ValueError(f"`{name}` holds {len(values)} scores: an interval needs two or more. Give more rows.")
    if np.isnan(values[-1]):  # NaN sorts last
        raise ValueError(f"`{name}` holds NaN: an outcome without a rank. Repair the model or leave those rows out.")
    return values

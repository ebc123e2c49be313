"""How well scores tell members from others: ROC on log axes, AUC, true positives at few false ones, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .intervals import share_limits

CURVE = np.concatenate([[0.0], np.logspace(-5, 0, 201)])  # false positive rates at which a curve is kept


@dataclass(frozen=True)
class Roc:
    """What one attack's scores tell. 0.5 is chance; below it the attack is wrong more often than a coin, which is information too.

    The intervals take the scores as independent: give the scores of one attacked model. Those of a true positive rate are of
    the members alone, at the threshold that the others set.

    Attributes:
        auc, auc_low, auc_high: share of (member, other) pairs in which the member scores higher, ties counted half.
        tpr: false positive rate -> (share of members found, low, high). With fewer than 1/rate others no false positive at all
            is allowed, and the rate is then of members above every other.
        curve: false positive rates, and the highest true positive rate at each, in [0, 1].
        members, others: how many scores.
        level: confidence of the intervals.
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
        """JSON-ready."""
        return asdict(self)


def roc(members: Any, others: Any, *, rates: Sequence[float] = (0.01, 0.001), level: float = 0.95) -> Roc:
    """The ROC of scores that should be high for members.

    The interval of the AUC is DeLong's (Biometrics 1988) on the log-odds scale, on which it stays inside (0, 1); where scores
    are separated without error and it has no width, the exact bound of min(members, others) disjoint pairs, all in order.
    That of a true positive rate is Clopper and Pearson's.

    Args:
        members, others: scores of any shape, taken as flat.
        rates: false positive rates in (0, 1).
        level: confidence, in (0, 1).

    Raises:
        ValueError: fewer than two scores on a side, NaN, or a rate or level outside (0, 1). Infinite scores are fine.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}. The usual value is 0.95.")
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"`rates` must lie strictly between 0 and 1, got {rate}. For 1 % write 0.01.")
    members, others = _flat(members, "members"), _flat(others, "others")
    auc, error = _delong(members, others)
    low, high = _auc_interval(auc, error, min(len(members), len(others)), level)
    found = {}
    for rate, share in zip(rates, true_positives(members, others, np.asarray(rates)), strict=True):
        low_share, high_share = share_limits(round(share * len(members)), len(members), level)
        found[float(rate)] = (float(share), float(low_share), float(high_share))
    curve = (CURVE.tolist(), true_positives(members, others, CURVE).tolist())
    return Roc(auc, low, high, found, curve, len(members), len(others), level)


def true_positives(members: np.ndarray, others: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The highest share of members above a threshold that at most the share `rates` (k,) of the others is above; both sorted."""
    allowed = np.floor(rates * len(others) + 1e-9).astype(int)  # 1e-9: 0.001 * 3000 may come out below 3
    # Strictly above the first other that is too many: ties at the threshold are then never let in.
    thresholds = np.concatenate([others[::-1], [-np.inf]])[allowed]
    shares = 1 - np.searchsorted(members, thresholds, side="right") / len(members)
    return np.where(allowed >= len(others), 1.0, shares)


def placements(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of others below each member, and of members above each other, ties counted half; both sides sorted.

    The mean of either is the AUC, and their variances are that of DeLong et al. (Biometrics 1988).
    """

    def below(x: np.ndarray, among: np.ndarray) -> np.ndarray:
        return (np.searchsorted(among, x, "left") + np.searchsorted(among, x, "right")) / (2 * len(among))

    return below(members, others), 1 - below(others, members)


def _delong(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error; both sorted."""
    below, above = placements(members, others)
    variance = below.var(ddof=1) / len(members) + above.var(ddof=1) / len(others)
    return float(below.mean()), math.sqrt(variance)


def _auc_interval(auc: float, error: float, pairs: int, level: float) -> tuple[float, float]:
    from scipy.special import expit, logit
    from scipy.stats import norm

    if not 0 < auc < 1:
        bound = ((1 - level) / 2) ** (1 / pairs)
        return (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
    reach = norm.ppf((1 + level) / 2) * error / (auc * (1 - auc))
    return float(expit(logit(auc) - reach)), float(expit(logit(auc) + reach))


def _flat(scores: Any, name: str) -> np.ndarray:
    values = np.sort(np.asarray(scores), axis=None)
    if len(values) < 2:
        raise ValueError(f"`{name}` holds {len(values)} scores: an interval needs two or more. Give more rows.")
    if np.isnan(values[-1]):  # NaN sorts last
        raise ValueError(f"`{name}` holds NaN: an outcome without a rank. Repair the model or leave those rows out.")
    return values

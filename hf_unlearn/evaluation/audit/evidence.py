"""Is one model, in one figure, as close to retrained models as these are to each other? Margins, tests, multiplicity.

The null hypothesis is that it differs (two one-sided tests, Schuirmann 1987): a model is let through on evidence that it is
inside the margin, never for want of evidence that it is outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...metrics.functional.roc import placements

PRIOR_SEEDS = 6  # the default spread weighs as much as the spread of seven retrained models
REACH = 2.0  # margins that the original must be away for a line to tell anything
COVERAGE = 0.99  # share of fresh retrained models above the lower, and below the upper end of a margin's seed part


@dataclass(frozen=True)
class Estimate:
    """A figure with what each row adds to its error.

    Attributes:
        value: the figure.
        rows: for each independent set of rows, the influence (n,) of every row: the figure is, to first order, the sum of
            their means. Empty where the figure has no sampling error.
        grain: what one row can change at most: two such rows are added to the error, so that a figure of 0 or 1 is not
            taken for exact.
    """

    value: float
    rows: tuple[np.ndarray, ...] = ()
    grain: float = 0.0

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two figures on the same rows."""
        rows = tuple(a - b for a, b in zip(self.rows, other.rows, strict=True)) if other.rows else self.rows
        return Estimate(self.value - other.value, rows, max(self.grain, other.grain))

    @property
    def error(self) -> float:
        """Standard error over rows."""
        return math.sqrt(sum((x.var() * len(x) + 2 * self.grain**2) / len(x) ** 2 for x in self.rows))

    @staticmethod
    def mean(estimates: Sequence[Estimate]) -> Estimate:
        """The mean of figures on the same rows."""
        rows = tuple(np.mean(parts, axis=0) for parts in zip(*(e.rows for e in estimates), strict=True))
        return Estimate(float(np.mean([e.value for e in estimates])), rows, max(e.grain for e in estimates))


def estimate_share(hits: Any) -> Estimate:
    """The share of true entries (n,)."""
    hits = np.asarray(hits, dtype=np.float64)
    return Estimate(float(hits.mean()), (hits,), 1.0)


def estimate_mean(values: Any) -> Estimate:
    """The mean of values (n,)."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), (values,))


def separation(positives: np.ndarray, negatives: np.ndarray) -> Estimate:
    """AUC: the chance that a positive (n,) scores above a negative (m,), ties counted half; 0.5 where nothing tells them apart.

    The influences are the placements of DeLong et al. (1988).
    """
    above, below = placements(np.sort(positives), np.sort(negatives))
    return Estimate(float(above.mean()), (above, below - below.mean()), 0.5)


@dataclass
class Evidence:
    """One line of evidence: a figure of the unlearned model beside those of the original and of the retrained ones.

    Attributes:
        key, title: which figure, and in words.
        group: `memory` (what the outputs on the forget set tell), `shape` (how they look otherwise), `utility` (kept data) or
            `inside` (features, weights, relearning).
        original, unlearned: the figure of each; retrained: of every retrained model; None or empty where unknown.
        expected: what retraining gives: the mean of the retrained models, or a value known without one; None if unknown.
        difference, low, high: unlearned − expected, and its interval over rows at level 1 − 2·alpha.
        practical, spread: the two parts of the margin: what is declared not to matter, and what a new seed may move.
        result: `equivalent` (interval inside the margin), `different` (outside it, Holm-corrected), `unclear`, or `unknown`.
        telling: whether the original is significantly outside twice the margin: only then does passing mean something, and a
            model that passes lies nearer retraining than the original.
        p_value: of being inside the margin, before Holm's correction.
        words: the line in plain words.
    """

    key: str
    title: str
    group: str
    original: float
    unlearned: float
    retrained: list[float] = field(default_factory=list)
    expected: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    practical: float = 0.0
    spread: float = 0.0
    result: str = "unknown"
    telling: bool = False
    p_value: float | None = None
    words: str = ""

    @property
    def margin(self) -> float:
        """Half width of the region that counts as the same."""
        return self.practical + self.spread

    @property
    def side(self) -> int:
        """+1 where the model is significantly above the margin, −1 where below, else 0."""
        if self.result != "different" or self.difference is None:
            return 0
        return 1 if self.difference > 0 else -1


def seed_spread(values: Sequence[float], default: float) -> float:
    """How far a fresh retrained model may lie from the mean of those given: half of a prediction interval.

    t-quantile · s · √(1 + 1/k), where s² pools the variance of the k values with `default`², which counts as `PRIOR_SEEDS`
    degrees of freedom. With one value it is the default alone; more narrow it, or widen it where seeds really differ.
    """
    k = max(len(values), 1)
    squares = float(np.var(values) * k) if len(values) else 0.0
    freedom = PRIOR_SEEDS + k - 1
    s = math.sqrt((PRIOR_SEEDS * default**2 + squares) / freedom)
    return float(stats.t.ppf(COVERAGE, freedom)) * s * math.sqrt(1 + 1 / k)


def compare(
    line: Evidence,
    original: Estimate,
    unlearned: Estimate,
    expected: Estimate,
    *,
    practical: float,
    default_spread: float,
    alpha: float,
    upper_only: bool = False,
) -> Evidence:
    """Fill in `line`: difference, interval, margin, and whether it is equivalent; `settle` says which are different.

    Args:
        upper_only: only a figure above retraining counts; below it is as good.
    """
    line.expected, line.practical = expected.value, practical
    line.spread = seed_spread(line.retrained, default_spread)
    z = float(stats.norm.ppf(1 - alpha))
    gap = unlearned - expected
    line.difference = gap.value
    line.low, line.high = gap.value - z * gap.error, gap.value + z * gap.error
    inside_below = upper_only or line.low >= -line.margin
    line.result = "equivalent" if inside_below and line.high <= line.margin else "unclear"
    line.p_value = _outside(gap, line.margin, upper_only)
    line.telling = _outside(original - expected, REACH * line.margin, upper_only) < alpha
    return line


def _outside(gap: Estimate, margin: float, upper_only: bool) -> float:
    """p-value of the null that the true difference is inside the margin."""
    beyond = (gap.value if upper_only else abs(gap.value)) - margin
    if gap.error == 0:
        return 0.0 if beyond > 0 else 1.0
    return float(stats.norm.sf(beyond / gap.error))


def settle(lines: Sequence[Evidence], alpha: float) -> None:
    """Mark the lines that are significantly outside their margin, with Holm's correction over all that were compared."""
    compared = sorted((line for line in lines if line.p_value is not None), key=lambda line: line.p_value or 0.0)
    for rank, line in enumerate(compared):
        if (line.p_value or 0.0) > alpha / (len(compared) - rank):
            break
        line.result = "different"

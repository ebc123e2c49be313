"""Compare one figure of a model with the same figure of retrained models: margins, tests, correction for many tests.

The null hypothesis is that the model differs from retraining (two one-sided tests, Schuirmann 1987). A model passes only if
there is evidence that it lies inside the margin. Too little evidence that it lies outside is not enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...metrics.functional.roc import placements

PRIOR_SEEDS = 6  # degrees of freedom of the default spread: it weighs as much as the spread of seven retrained models
TELLING_MARGINS = 2.0  # margins that the original must lie from retraining for a line to tell the two apart
COVERAGE = 0.99  # share of new retrained models above the lower end of a margin's seed part, and below its upper end


@dataclass(frozen=True)
class Estimate:
    """A figure, and what its standard error is computed from.

    Attributes:
        value: the figure.
        rows: for each independent set of rows, the influence (n,) of every row: to first order, the figure is the sum of
            their means. Empty if the figure has no sampling error.
        grain: the most that one row can change. Two such rows are added to the error, so that a figure of 0 or 1 is not
            taken for exact.
    """

    value: float
    rows: tuple[np.ndarray, ...] = ()
    grain: float = 0.0

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference of two figures on the same rows."""
        rows = tuple(a - b for a, b in zip(self.rows, other.rows, strict=True)) if other.rows else self.rows
        return Estimate(self.value - other.value, rows, max(self.grain, other.grain))

    @property
    def error(self) -> float:
        """Standard error over rows."""
        return math.sqrt(sum((x.var() * len(x) + 2 * self.grain**2) / len(x) ** 2 for x in self.rows))

    @staticmethod
    def mean(estimates: Sequence[Estimate]) -> Estimate:
        """Return the mean of figures on the same rows."""
        rows = tuple(np.mean(parts, axis=0) for parts in zip(*(e.rows for e in estimates), strict=True))
        return Estimate(float(np.mean([e.value for e in estimates])), rows, max(e.grain for e in estimates))


def estimate_mean(values: Any, grain: float = 0.0) -> Estimate:
    """Return the mean of values (n,)."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), (values,), grain)


def estimate_share(hits: Any) -> Estimate:
    """Return the share of true entries (n,)."""
    return estimate_mean(hits, grain=1.0)


def separation(positives: np.ndarray, negatives: np.ndarray) -> Estimate:
    """Return the AUC: the chance that a positive (n,) scores above a negative (m,), ties counted half.

    The influences of the rows are the placements of DeLong et al. (1988).
    """
    above, below = placements(np.sort(positives), np.sort(negatives))
    return Estimate(float(above.mean()), (above, below - below.mean()), 0.5)


@dataclass
class Evidence:
    """One line of evidence: a figure of the unlearned model beside those of the original and of the retrained models.

    Attributes:
        key: which figure it is, a key of `hf_unlearn.evaluation.audit.verdicts.SPECS`.
        title: the figure in words.
        group: what the figure shows, which decides what verdict it can lead to:
            `memory`: what the outputs on forget rows and forgotten classes still know;
            `shape`: how else the outputs on forget rows differ from retraining;
            `over`: outputs on forget rows that neither retraining nor hiding explains;
            `utility`: accuracy on kept data;
            `scale`: mean confidence on kept test rows;
            `depth`: how fast forgotten classes are relearned;
            `inside`: features, unchanged weights, rounded weights, and scores of forget rows as training data;
            `switch`: whether the original is back when the adapters are switched off.
        original: figure of the original.
        unlearned: figure of the unlearned model.
        retrained: figure of every retrained model; empty if unknown.
        expected: what retraining gives: the mean of the retrained models, or a value known without one; None if unknown.
        difference: unlearned − expected.
        low, high: interval of the difference over rows, at level 1 − 2·alpha.
        practical: the part of the margin that is declared not to matter.
        spread: the part of the margin that a new seed of retraining may move the figure by.
        result: `equivalent` (the interval is inside the margin), `different` (significantly outside, Holm-corrected),
            `unclear` (neither), or `unknown` (nothing to compare with).
        telling: True if the original is significantly outside twice the margin. Only then does it mean something that a
            model passes: such a model lies nearer to retraining than the original. For relearning, an original that only does
            not answer the forgotten classes must be outside the margin too, because the original has nothing to learn again.
        p_value: of the hypothesis that the difference is inside the margin, before Holm's correction.
        words: the result in plain words.
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
        """Half the width of the interval of differences that count as equivalent."""
        return self.practical + self.spread

    @property
    def side(self) -> int:
        """+1 if the model is significantly above the margin, −1 if it is below, else 0."""
        if self.result != "different" or self.difference is None:
            return 0
        return 1 if self.difference > 0 else -1


def seed_spread(values: Sequence[float], default: float) -> float:
    """Return how far a new retrained model may lie from the mean of `values`: half the width of a prediction interval.

    It is t-quantile · s · √(1 + 1/k), where s² pools the variance of the k values with `default`², which counts as
    `PRIOR_SEEDS` degrees of freedom. One value leaves the default alone. More values narrow it, or widen it if they differ.
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
    hidden: Estimate | None = None,
) -> None:
    """Fill in the difference, interval and margin of `line`, and whether it is equivalent; `settle` finds the different ones.

    Args:
        upper_only: count only figures above retraining. A lower figure is then as good as an equal one.
        hidden: what the figure is of an original that only does not answer the forgotten classes. Default None: the original's.
    """
    line.expected, line.practical = expected.value, practical
    line.spread = seed_spread(line.retrained, default_spread)
    z = float(stats.norm.ppf(1 - alpha))
    gap = unlearned - expected
    line.difference = gap.value
    line.low, line.high = gap.value - z * gap.error, gap.value + z * gap.error
    inside_below = upper_only or line.low >= -line.margin
    line.result = "equivalent" if inside_below and line.high <= line.margin else "unclear"
    line.p_value = _p_inside(gap, line.margin, upper_only)
    far, caught = ((original, TELLING_MARGINS), (original if hidden is None else hidden, 1.0))
    line.telling = all(_p_inside(x - expected, n * line.margin, upper_only) < alpha for x, n in (far, caught))


def _p_inside(gap: Estimate, margin: float, upper_only: bool) -> float:
    """The p-value of the null hypothesis that the true difference is inside the margin."""
    beyond = (gap.value if upper_only else abs(gap.value)) - margin
    if gap.error == 0:
        return 0.0 if beyond > 0 else 1.0
    return float(stats.norm.sf(beyond / gap.error))


def settle(lines: Sequence[Evidence], alpha: float) -> None:
    """Mark the lines that are significantly outside their margin, with Holm's correction over all lines compared."""
    compared = sorted((line for line in lines if line.p_value is not None), key=lambda line: line.p_value or 0.0)
    for rank, line in enumerate(compared):
        if (line.p_value or 0.0) > alpha / (len(compared) - rank):
            break
        line.result = "different"

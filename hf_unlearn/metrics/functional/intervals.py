"""How far a figure may be off, given the rows it was measured on: two-sided intervals at 95 %.

Rows count as independent draws. Shares get exact intervals, which stay honest at 0 and 1, where resampling has no
width. Means and F1 get the percentile bootstrap over rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import accuracy, fairness

LEVEL = 0.95
DRAWS = 1000


class Interval(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


def share_limits(hits: Any, sizes: Any, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of Clopper and Pearson for shares, in [0, 1].

    Args:
        hits: The counts of hits, of any shape.
        sizes: The counts of rows, of the same shape.
        level: The confidence of the interval, in (0, 1), by default 0.95.

    Raises:
        ValueError: A size is 0, or there are more hits than rows.
    """
    from scipy.special import betaincinv

    k, n = np.asarray(hits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if (n < 1).any() or (k < 0).any() or (k > n).any():
        raise ValueError(
            "`hits` must lie between 0 and `sizes`, and `sizes` be 1 at least. Leave out what has no rows."
        )
    tail = (1 - level) / 2
    low = np.where(k > 0, betaincinv(k.clip(1), n - k + 1, tail), 0.0)
    high = np.where(k < n, betaincinv(k + 1, (n - k).clip(1), 1 - tail), 1.0)
    return low, high


def share(hits: Any) -> Interval:
    """Return the share of true entries of `hits` (n,), with its limits. Raises ValueError if there is no entry."""
    array = np.asarray(hits, dtype=bool)
    low, high = share_limits(array.sum(), array.size)
    return Interval(float(array.mean()), float(low), float(high))


def difference(first: Interval, second: Interval) -> Interval:
    """Return `first` − `second`, with the limits of Newcombe's square-and-add (Statistics in Medicine 1998).

    The two count as independent. On the same rows they are not, and what they have in common makes the limits too wide,
    never too narrow.
    """
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    below, above = np.hypot(p - p_low, q_high - q), np.hypot(p_high - p, q - q_low)
    return Interval(p - q, float(p - q - below), float(p - q + above))


def mean_of(figures: Sequence[Interval]) -> Interval:
    """Return the mean of `figures` on the same rows. Its limits are the mean limits, which is rather wide."""
    return Interval(*np.mean(figures, axis=0).tolist())


def mean_distance(ours: list[Interval], theirs: list[Interval]) -> Interval:
    """Return the mean |ours − theirs| over paired shares.

    The limits are the mean limits of the distances, which is rather wide. The lower limit of a distance is 0 if
    `difference` does not tell it from 0.
    """
    distances = []
    for a, b in zip(ours, theirs, strict=True):
        d, low, high = difference(a, b)
        distances.append(Interval(abs(d), max(low, -high, 0.0), max(high, -low)))
    return mean_of(distances)


def mean(values: Any, seed: int = 0) -> Interval:
    """Return the mean of `values` (n,), with bootstrap limits in their unit; `seed` is that of the draws."""
    x, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    rows = max(1, 2**21 // len(x))  # drawn in blocks of about 16 MB
    blocks = [x[generator.integers(len(x), size=(min(rows, DRAWS - i), len(x)))].mean(1) for i in range(0, DRAWS, rows)]
    return _around(float(x.mean()), np.concatenate(blocks))


def macro_f1(predicted: Any, true: Any, seed: int = 0) -> Interval:
    """Return the macro F1 of class ids (n,) over the classes that `true` holds, with bootstrap limits.

    Rows with the same answer and label are alike, so a resample draws how often each such pair occurs; `seed` is that
    of the draws.
    """
    from scipy.sparse import csr_array

    y_hat, y = np.asarray(predicted, dtype=np.int64), np.asarray(true, dtype=np.int64)
    (p, t), counts = np.unique(np.stack([y_hat, y]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(y), counts / len(y), size=DRAWS).astype(np.float64)
    classes, cells = int(max(p.max(), t.max())) + 1, np.arange(len(p))

    def totals(columns: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Return how often the cells of each class were drawn, (draws, classes)."""
        return drawn @ csr_array((of.astype(float), (cells, columns)), shape=(len(cells), classes))

    held = totals(t, np.ones_like(t))
    f1 = 2 * totals(t, p == t) / np.maximum(held + totals(p, np.ones_like(p)), 1)
    return _around(accuracy.macro_f1(y_hat, y), (f1 * (held > 0)).sum(1) / (held > 0).sum(1))


def worst_share(hits: Any, sizes: Any) -> Interval:
    """Return the lowest share of any group, `hits` out of `sizes` (groups,).

    The limits hold for all groups at once (Bonferroni), because the same rows showed which group is the worst.
    """
    k, n = np.asarray(hits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    low, high = share_limits(k, n, 1 - (1 - LEVEL) / len(n))
    return Interval(float((k / n).min()), float(low.min()), float(high.min()))


def cramers_v(predicted: Any, attributes: Any) -> Interval:
    """Return Cramér's V of predictions and attribute (n,), with limits from the noncentral χ² distribution.

    The V of a sample is above 0 even if the true one is 0, and that of a bootstrap is higher still. These limits allow
    for that, and reach down to 0.
    """
    from scipy.special import chndtr, chndtrinc

    v, table = fairness.cramers_v(predicted, attributes), fairness.class_counts(predicted, attributes)
    smaller, freedom = min(table.shape) - 1, (table.shape[0] - 1) * (table.shape[1] - 1)
    if smaller == 0:
        return Interval(v, v, v)  # one answer to everything
    scale = table.sum() * smaller
    statistic, tail = scale * v**2, (1 - LEVEL) / 2

    def noncentrality(p: float) -> float:
        return float(chndtrinc(statistic, freedom, p)) if chndtr(statistic, freedom, 0.0) > p else 0.0

    low, high = (np.sqrt(noncentrality(p) / scale) for p in (1 - tail, tail))
    return Interval(v, float(min(low, v)), float(np.clip(high, v, 1.0)))


def _around(value: float, draws: np.ndarray) -> Interval:
    """Return the quantiles of bootstrap draws as the interval of `value`, which the interval always holds."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)))

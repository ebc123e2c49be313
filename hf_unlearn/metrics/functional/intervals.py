"""How far a figure may be off, given the rows it was measured on: two-sided intervals at 95 %.

Rows are taken as independent draws. Shares get exact intervals, which stay honest at 0 and 1, where resampling has no width;
means and F1 get the percentile bootstrap over rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
DRAWS = 1000


class Interval(NamedTuple):
    """A figure and the limits of its interval."""

    value: float
    low: float
    high: float


def share_limits(hits: Any, sizes: Any, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's limits of `hits` out of `sizes` (each of one shape, counts), in [0, 1].

    Raises:
        ValueError: a size of 0, or more hits than rows.
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
    """The share of true entries of `hits` (n,), with its limits. Raises ValueError where there are none."""
    array = np.asarray(hits, dtype=bool)
    low, high = share_limits(array.sum(), array.size)
    return Interval(float(array.mean()), float(low), float(high))


def difference(first: Interval, second: Interval) -> Interval:
    """`first` − `second`, limits by Newcombe's square-and-add (Statistics in Medicine 1998).

    The two are taken as independent. On the same rows they are not: what they have in common makes the limits too wide, never
    too narrow.
    """
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    below, above = np.hypot(p - p_low, q_high - q), np.hypot(p_high - p, q - q_low)
    return Interval(p - q, float(p - q - below), float(p - q + above))


def mean_distance(ours: list[Interval], theirs: list[Interval]) -> Interval:
    """Mean |ours − theirs| over paired shares: the limits of every distance, averaged, which is wide rather than narrow.

    A distance that its difference does not tell from 0 has 0 as its lower limit.
    """
    distances = []
    for a, b in zip(ours, theirs, strict=True):
        d, low, high = difference(a, b)
        distances.append((abs(d), max(low, -high, 0.0), max(high, -low)))
    value, low, high = np.mean(distances, axis=0).tolist()
    return Interval(value, low, high)


def mean(values: Any, seed: int = 0) -> Interval:
    """The mean of `values` (n,), with bootstrap limits in their unit."""
    x, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    rows = max(1, 2**21 // len(x))  # drawn in blocks of about 16 MB
    blocks = [x[generator.integers(len(x), size=(min(rows, DRAWS - i), len(x)))].mean(1) for i in range(0, DRAWS, rows)]
    return _around(float(x.mean()), np.concatenate(blocks))


def macro_f1(predicted: Any, true: Any, seed: int = 0) -> Interval:
    """Macro F1 of class ids (n,) over the classes that `true` holds, with bootstrap limits.

    Rows with the same answer and label are alike, so a resample is a draw of how often each such pair occurs.
    """
    from scipy.sparse import csr_array

    from .accuracy import macro_f1 as value

    y_hat, y = np.asarray(predicted, dtype=np.int64), np.asarray(true, dtype=np.int64)
    (p, t), counts = np.unique(np.stack([y_hat, y]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(y), counts / len(y), size=DRAWS).astype(np.float64)
    classes, cells = int(max(p.max(), t.max())) + 1, np.arange(len(p))

    def totals(columns: np.ndarray, of: np.ndarray) -> np.ndarray:
        """(draws, classes): how often the cells of each class were drawn."""
        return drawn @ csr_array((of.astype(float), (cells, columns)), shape=(len(cells), classes))

    held = totals(t, np.ones_like(t))
    f1 = 2 * totals(t, p == t) / np.maximum(held + totals(p, np.ones_like(p)), 1)
    return _around(value(y_hat, y), (f1 * (held > 0)).sum(1) / (held > 0).sum(1))


def worst_share(hits: Any, sizes: Any) -> Interval:
    """The lowest share of any group, `hits` out of `sizes` (groups,).

    The limits hold for all groups at once (Bonferroni): which of them is the worst was seen on the same rows.
    """
    k, n = np.asarray(hits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    low, high = share_limits(k, n, 1 - (1 - LEVEL) / len(n))
    return Interval(float((k / n).min()), float(low.min()), float(high.min()))


def cramers_v(predicted: Any, attributes: Any) -> Interval:
    """Cramér's V of predictions and attribute (n,), limits from the noncentral χ² distribution.

    A sample's V is above 0 where the true one is 0, and a bootstrap's higher still; these limits know it, and reach down to 0.
    """
    from scipy.special import chndtr, chndtrinc
    from scipy.stats.contingency import crosstab

    from .fairness import cramers_v as value

    v, table = value(predicted, attributes), crosstab(np.asarray(attributes), np.asarray(predicted)).count
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
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)))

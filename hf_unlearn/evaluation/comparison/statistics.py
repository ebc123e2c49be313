"""Intervals over seeds, and ranks of methods with a critical difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean of `values` and half the width of its confidence interval by Student's t; NaN with a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over blocks, 1 is best.

    Attributes:
        ranks: method -> mean rank, the best first.
        blocks: number of blocks, which are scenarios and seeds where every method has a result.
        p_value: of Friedman's test that all methods are equally good; NaN with fewer than three methods or two blocks.
        difference: mean ranks that differ by less are not told apart by Nemenyi's test at 5 %; NaN likewise.
    """

    ranks: dict[str, float]
    blocks: int
    p_value: float
    difference: float


def ranking(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank methods by their scores, of which lower is better, as Demšar (2006) does for classifiers.

    Args:
        scores: method -> score in each block, the same blocks in the same order for all methods.

    Raises:
        ValueError: there is no method, or the numbers of blocks differ.
    """
    if not scores or len({len(values) for values in scores.values()}) != 1:
        raise ValueError("`scores` needs at least one method, and a score of each method in every block.")
    table = np.array([list(values) for values in scores.values()], dtype=np.float64).T  # (blocks, methods)
    blocks, methods = table.shape
    mean = stats.rankdata(table, axis=1).mean(0) if blocks else np.full(methods, np.nan)
    order = np.argsort(mean, kind="stable")
    names = list(scores)
    p_value = difference = math.nan
    if methods > 2 and blocks > 1:
        p_value = float(stats.friedmanchisquare(*table.T).pvalue)
        q = float(stats.studentized_range.ppf(0.95, methods, np.inf)) / math.sqrt(2)
        difference = q * math.sqrt(methods * (methods + 1) / (6 * blocks))
    return Ranking({names[i]: float(mean[i]) for i in order}, blocks, p_value, difference)

"""Unlearned against retrained models, row by row: the ε of the NeurIPS 2023 challenge, and KLoM.

Scores are those of `confidence_scores`, (models, rows).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .per_example_attacks import check_count, checked_pair, row_chunks

CAP = 50.0  # ε of rows told apart without error
BIN = 0.5  # width of a bin of ε
SLACK = 2.0  # by which the window of the second attacker may be longer or shorter than the narrower range
PEAKED = 0.01  # ratio of the ranges under which one side stands still, and the two are told apart
CELLS = 2**21  # windows at a time


def forgetting_epsilon(unlearned: Any, retrained: Any, *, delta: float = 1e-5) -> np.ndarray:
    """ε of (ε, δ)-unlearning of every row, (rows,) in [0, 50]: the greatest that a threshold attacker shows.

    Triantafillou et al. 2024 (arXiv 2406.09073): ε = max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)) over attackers. One
    calls a score above a threshold the side of the higher median; the other a score inside a window, about as long as the
    narrower side's range, that side. Here over all thresholds and windows that the scores distinguish, where the published
    code tries a grid of 0.01. An attacker with one kind of error only is left out, as too few models; one with none is 50.

    Args:
        unlearned, retrained: (models, rows) scores on rows of the forget set.
        delta: δ, in [0, 1).

    Raises:
        ValueError: other or different shapes, NaN, fewer than two models, `delta` out of range.
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    models, rows = unlearned.shape
    check_count(models, 2, "unlearned", "of which rates of error are taken")
    if not 0 <= delta < 1:
        raise ValueError(f"`delta` must lie in [0, 1), got {delta}. The challenge takes 1e-5.")
    step = max(1, CELLS // (2 * models + 1) ** 2)
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    return np.concatenate([_epsilon(unlearned[:, p].T, retrained[:, p].T, delta) for p in parts])


def forgetting_quality(epsilon: Any, models: int, *, retain_ratio: float = 1.0, test_ratio: float = 1.0) -> float:
    """Score of the NeurIPS 2023 challenge, 1 for perfect forgetting: mean of 2^−bin over rows, times the utility ratios.

    arXiv 2406.09073. Bins of ε are 0.5 wide; an ε beyond what `models` models could show, ⌈log(models − 1)⌉, earns nothing.

    Args:
        epsilon: (rows,) of `forgetting_epsilon`.
        models: how many models of each kind stand behind them.
        retain_ratio, test_ratio: mean accuracy of unlearned over that of retrained models, on retain and test set.

    Raises:
        ValueError: NaN or negative ε, fewer than three models, a ratio below 0.
    """
    values = np.asarray(epsilon, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not (values >= 0).all():
        raise ValueError(f"`epsilon` must hold values of 0 or more, shape (rows,), got {values.shape} or NaN in it.")
    if models < 3:
        raise ValueError(
            f"`models={models}` show no ε at all: three are needed, and the challenge had 512. Train more."
        )
    for name, ratio in (("retain_ratio", retain_ratio), ("test_ratio", test_ratio)):
        if not ratio >= 0:
            raise ValueError(f"`{name}={ratio}` must be 0 or more: it is accuracy over accuracy.")
    bins = np.floor(values / BIN)
    points = np.where(bins < math.ceil(math.log(models - 1)) / BIN, 2.0**-bins, 0.0)
    return float(points.mean() * retain_ratio * test_ratio)


def klom(unlearned: Any, retrained: Any, *, bins: int = 20, floor: float = 1e-5, limit: float = 100.0) -> np.ndarray:
    """KL divergence of margins of every row, (rows,) nats: KL(unlearned ‖ retrained) of histograms over models. 0 is perfect.

    Georgiev et al. 2024 (arXiv 2410.23232) and data-unlearning-bench. Equal bins between the least and greatest margin of both
    sides; the greatest belongs to the last bin, where the published code drops it. It is biased upward with few models: compare
    with the value between two halves of the retrained ones.

    Args:
        unlearned, retrained: (models, rows) scores.
        bins: how many.
        floor: least share of a bin of the retrained models where there is an unlearned one.
        limit: margins are cut to ± this.

    Raises:
        ValueError: other or different shapes, NaN, `bins` or `floor` out of range.
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    if bins < 2:
        raise ValueError(f"`bins={bins}` cannot tell two distributions apart. Give two or more; the paper has 20.")
    if not 0 < floor < 1:
        raise ValueError(
            f"`floor` must lie strictly between 0 and 1, got {floor}: an empty bin would be infinitely far."
        )
    out = np.empty(unlearned.shape[1])
    for part in row_chunks(len(out)):
        sides = [np.clip(s[:, part].astype(np.float64), -limit, limit) for s in (unlearned, retrained)]
        low = np.minimum(sides[0].min(0), sides[1].min(0))
        width = np.maximum(sides[0].max(0), sides[1].max(0)) - low
        width[width == 0] = 1.0
        p, q = (_histogram((side - low) / width, bins) for side in sides)
        q = np.where(p > 0, np.maximum(q, floor), q)
        q /= q.sum(1, keepdims=True)
        out[part] = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0).sum(1)
    return out


# --- parts ------------------------------------------------------------------------------------------------------------


def _histogram(places: np.ndarray, bins: int) -> np.ndarray:
    """Shares (rows, bins) of places (models, rows) in [0, 1]."""
    models, rows = places.shape
    which = np.minimum((places * bins).astype(int), bins - 1) + bins * np.arange(rows)
    return np.bincount(which.ravel(), minlength=rows * bins).reshape(rows, bins) / models


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray, delta: float) -> np.ndarray:
    """ε (rows,) of scores (rows, models), all thresholds and windows at once."""
    rows, models = unlearned.shape
    both = np.concatenate([unlearned, retrained], 1).astype(np.float64)
    order = both.argsort(1, kind="stable")
    x = np.take_along_axis(both, order, 1)
    # Shares of each side below cut 0..2m, which lies between neighbours: a cut between equal scores is none.
    first = np.pad((order < models).cumsum(1), ((0, 0), (1, 0))) / models
    second = np.arange(2 * models + 1) / models - first
    cut = np.pad(x[:, 1:] > x[:, :-1], ((0, 0), (1, 1)), constant_values=True)

    higher = np.median(unlearned, 1) >= np.median(retrained, 1)
    positive, negative = _swap(first, second, higher)
    found = _greatest(np.where(cut, 1 - negative, 0), np.where(cut, positive, 1), delta).max(1)

    ranges = np.ptp(unlearned, 1), np.ptp(retrained, 1)
    narrow, wide = np.minimum(*ranges), np.maximum(*ranges)
    inner, outer = _swap(first, second, ranges[0] < ranges[1])
    edge = np.full((rows, 1), np.inf)
    before, after = np.concatenate([-edge, x], 1), np.concatenate([x, edge], 1)
    # A window from cut i to cut j: at least from its first to its last score, less than to the next scores outside.
    least = before[:, None, :] - after[:, :, None]
    most = after[:, None, :] - before[:, :, None]
    length = narrow[:, None, None]
    possible = (least <= length + SLACK) & (most > length - SLACK) & cut[:, None, :] & cut[:, :, None]
    possible &= np.triu(np.ones(possible.shape[1:], bool), 1)
    missed = 1 - (inner[:, None, :] - inner[:, :, None])
    caught = outer[:, None, :] - outer[:, :, None]
    windows = _greatest(np.where(possible, caught, 0), np.where(possible, missed, 1), delta)
    found = np.maximum(found, windows.max((1, 2)))
    return np.where((wide > 0) & (narrow < PEAKED * wide), CAP, np.clip(found, 0, CAP))


def _swap(a: np.ndarray, b: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = keep[:, None]
    return np.where(keep, a, b), np.where(keep, b, a)


def _greatest(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """ε of each pair of error rates; infinite where both are 0, 0 where one is."""
    none = 1e-12  # rates are multiples of 1/models, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    usable = (fpr > none) & (fnr > none)
    return np.where(usable, np.fmax(bounds, 0), np.where((fpr <= none) & (fnr <= none), np.inf, 0))

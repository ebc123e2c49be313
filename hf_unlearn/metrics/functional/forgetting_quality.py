"""Unlearned against retrained models, row by row: the ε of the NeurIPS 2023 challenge, and KLoM.

Scores are those of `confidence_scores`, of shape (models, rows).
"""

import math
from typing import Any

import numpy as np

from .per_example_attacks import check_count, checked_pair, row_chunks

MAX_EPSILON = 50.0  # ε of rows that are told apart without error
BIN = 0.5  # width of a bin of ε
SLACK = 2.0  # the window of the second attacker may be this much longer or shorter than the narrower range
PEAKED = 0.01  # under this ratio of the ranges one side counts as constant, and the two are told apart
CELLS = 2**21  # windows at a time


def forgetting_epsilon(unlearned: Any, retrained: Any, *, delta: float = 1e-5) -> np.ndarray:
    """Return the ε of (ε, δ)-unlearning of every row, (rows,) in [0, 50]: the greatest that a threshold attacker shows.

    Triantafillou et al. 2024 (arXiv 2406.09073): ε = max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)) over
    attackers. One says that a score above a threshold is from the side with the higher median. The other says that a
    score inside a window, about as long as the narrower side's range, is from that side. This function tries all
    thresholds and windows that the scores distinguish; the published code tries a grid of 0.01. An attacker with one
    kind of error only is left out, because more models would show the other kind. An attacker without errors gives 50.

    Args:
        unlearned: The scores (models, rows) of unlearned models on rows of the forget set.
        retrained: The scores (models, rows) of as many retrained models.
        delta: δ, in [0, 1), by default 1e-5.

    Raises:
        ValueError: The shapes differ, a score is NaN, there are fewer than two models, or `delta` is out of range.
    """
    unlearned, retrained = checked_pair(unlearned, retrained)
    models, rows = unlearned.shape
    check_count(models, 2, "`unlearned` holds {} models", "for rates of error")
    if not 0 <= delta < 1:
        raise ValueError(f"`delta` must lie in [0, 1), got {delta}. The challenge takes 1e-5.")
    step = max(1, CELLS // (2 * models + 1) ** 2)
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    return np.concatenate([_epsilon(unlearned[:, p].T, retrained[:, p].T, delta) for p in parts])


def forgetting_quality(epsilon: Any, models: int, *, retain_ratio: float = 1.0, test_ratio: float = 1.0) -> float:
    """Return the score of the NeurIPS 2023 challenge (arXiv 2406.09073), 1 for perfect forgetting.

    The score is the mean of 2^−bin over the rows, times the two ratios. Bins of ε are 0.5 wide. An ε beyond what
    `models` models could show, ⌈log(models − 1)⌉, earns nothing.

    Args:
        epsilon: The ε (rows,) of `forgetting_epsilon`.
        models: The number of models of each kind that ε was measured with.
        retain_ratio: The mean accuracy of unlearned over that of retrained models on the retain set, by default 1.
        test_ratio: The same ratio on the test set, by default 1.

    Raises:
        ValueError: An ε is NaN or negative, there are fewer than three models, or a ratio is below 0.
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
    """Return KL(unlearned ‖ retrained) of every row's histograms of margins over models, (rows,) nats; 0 is perfect.

    Georgiev et al. 2024 (arXiv 2410.23232) and data-unlearning-bench. Equal bins lie between the least and the greatest
    margin of both sides. The greatest belongs to the last bin; the published code drops it. The value is biased upward
    with few models, so compare with the value between two halves of the retrained ones.

    Args:
        unlearned: The scores (models, rows) of unlearned models.
        retrained: The scores (models, rows) of as many retrained models.
        bins: The number of bins, by default 20.
        floor: The least share of retrained models in a bin that holds an unlearned one, by default 1e-5.
        limit: Margins are cut to ± this value, by default 100.

    Raises:
        ValueError: The shapes are wrong or differ, a score is NaN, or `bins` or `floor` is out of range.
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


def _histogram(places: np.ndarray, bins: int) -> np.ndarray:
    """Return the shares (rows, bins) of `places` (models, rows), which lie in [0, 1]."""
    models, rows = places.shape
    which = np.minimum((places * bins).astype(int), bins - 1) + bins * np.arange(rows)
    return np.bincount(which.ravel(), minlength=rows * bins).reshape(rows, bins) / models


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray, delta: float) -> np.ndarray:
    """Return the ε (rows,) of scores (rows, models), over all thresholds and windows at once."""
    rows, models = unlearned.shape
    both = np.concatenate([unlearned, retrained], 1).astype(np.float64)
    order = both.argsort(1, kind="stable")
    x = np.take_along_axis(both, order, 1)
    # Shares of each side below cut 0..2m. A cut lies between neighbors, so there is none between equal scores.
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
    # A window from cut i to cut j reaches from its first to its last score, and not to the next scores outside.
    least = before[:, None, :] - after[:, :, None]
    most = after[:, None, :] - before[:, :, None]
    length = narrow[:, None, None]
    possible = (least <= length + SLACK) & (most > length - SLACK) & cut[:, None, :] & cut[:, :, None]
    possible &= np.triu(np.ones(possible.shape[1:], bool), 1)
    missed = 1 - (inner[:, None, :] - inner[:, :, None])
    caught = outer[:, None, :] - outer[:, :, None]
    windows = _greatest(np.where(possible, caught, 0), np.where(possible, missed, 1), delta)
    found = np.maximum(found, windows.max((1, 2)))
    return np.where((wide > 0) & (narrow < PEAKED * wide), MAX_EPSILON, np.clip(found, 0, MAX_EPSILON))


def _swap(a: np.ndarray, b: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = keep[:, None]
    return np.where(keep, a, b), np.where(keep, b, a)


def _greatest(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """Return the ε of each pair of error rates: infinite if both are 0, 0 if one is."""
    none = 1e-12  # rates are multiples of 1/models, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    usable = (fpr > none) & (fnr > none)
    return np.where(usable, np.fmax(bounds, 0), np.where((fpr <= none) & (fnr <= none), np.inf, 0))

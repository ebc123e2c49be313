"""Distances between a model and the retrained one: between their outputs, and between the figures measured of both.

Logits are arrays, tensors or lists of shape (n, classes), of both models on the same samples. Log-probabilities give
the same result. A function of logits raises ValueError if there is no sample, a logit is NaN, or the shapes differ.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checked_arrays import log_probabilities, same_length, to_numpy


def divergences(logits: Any, reference_logits: Any) -> Tensor:
    """Return the Jensen–Shannon divergence (n,) of the softmax outputs of each sample, in nats, in [0, ln 2]."""
    p, q = (log_p.exp() for log_p in _pair(logits, reference_logits))
    m = (p + q) / 2

    def kl(a: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, m)).sum(-1)

    return ((kl(p) + kl(q)) / 2).clamp_min(0)  # rounding goes below 0 where both are equal


def jensen_shannon(logits: Any, reference_logits: Any) -> float:
    """Return the mean of `divergences` over the samples, in nats, in [0, ln 2]."""
    return divergences(logits, reference_logits).mean().item()


def jensen_shannon_distance(logits: Any, reference_logits: Any) -> float:
    """Return the mean over the samples of sqrt(divergence / ln 2), in [0, 1] (Endres and Schindelin 2003)."""
    return (divergences(logits, reference_logits) / math.log(2)).sqrt().mean().item()


def zero_retrain_forgetting(logits: Any, teacher_logits: Any) -> float:
    """Return ZRF = 1 − mean Jensen–Shannon divergence in bits to an untrained model, in [0, 1] (arXiv 2205.08096)."""
    return 1 - jensen_shannon(logits, teacher_logits) / math.log(2)


def agreement(logits: Any, reference_logits: Any) -> float:
    """Return the share of samples for which both models have the same most likely class, in [0, 1]."""
    ours, theirs = _pair(logits, reference_logits)
    return (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()


def average_gap(measures: Sequence[float], retrained: Sequence[float]) -> float:
    """Return the mean |measure − retrained| over the measures (k,), in their unit, ≥ 0 (SalUn, arXiv 2310.12508).

    Raises ValueError if there is no measure, a value is not finite, or the lengths differ.
    """
    ours, theirs = _measures(measures, retrained)
    return float(np.abs(ours - theirs).mean())


def tug_of_war(accuracies: Sequence[float], retrained: Sequence[float]) -> float:
    """Return ToW = Π (1 − |accuracy − retrained|) over the sets (k,), in [0, 1], 1 is perfect (arXiv 2406.01257).

    Raises ValueError as `average_gap`, or if an accuracy is outside [0, 1].
    """
    ours, theirs = _measures(accuracies, retrained)
    for argument, values in (("predictions", ours), ("references", theirs)):
        if ((values < 0) | (values > 1)).any():
            raise ValueError(
                f"`{argument}` must be accuracies in [0, 1], got {values.tolist()}. Divide percentages by 100."
            )
    return float(np.prod(1 - np.abs(ours - theirs)))


def _measures(ours: Any, theirs: Any) -> list[np.ndarray]:
    """Return both as finite numbers (k,) in fp64."""
    arrays = {"predictions": to_numpy(ours, "predictions"), "references": to_numpy(theirs, "references")}
    for argument, array in arrays.items():
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iufb" or not np.isfinite(array).all():
            raise ValueError(
                f"`{argument}` must be finite numbers, one per measure, got {array!r}. Leave out what has none."
            )
    same_length(**arrays)
    return [array.astype(np.float64) for array in arrays.values()]


def _pair(logits: Any, reference_logits: Any) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities (n, classes) of both models."""
    ours, theirs = log_probabilities(logits, "predictions"), log_probabilities(reference_logits, "references")
    if ours.shape != theirs.shape:
        raise ValueError(
            f"`references` has shape {tuple(theirs.shape)} and `predictions` {tuple(ours.shape)}: pass both models' logits on "
            "the same samples and classes."
        )
    return ours, theirs

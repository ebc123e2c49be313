"""How far a model is from the retrained one: in its outputs, and in the figures measured of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checked_arrays import log_probabilities, same_length, to_numpy


def jensen_shannon(logits: Any, reference_logits: Any) -> float:
    """Mean Jensen–Shannon divergence of softmax outputs (n, classes), in nats, in [0, ln 2].

    Raises:
        ValueError: shapes that differ, NaN, no sample.
    """
    return divergences(logits, reference_logits).mean().item()


def jensen_shannon_distance(logits: Any, reference_logits: Any) -> float:
    """Mean over samples of the Jensen–Shannon distance, sqrt(divergence / ln 2), in [0, 1]. Raises as `jensen_shannon`."""
    return (divergences(logits, reference_logits) / math.log(2)).sqrt().mean().item()


def zero_retrain_forgetting(logits: Any, teacher_logits: Any) -> float:
    """ZRF: 1 − mean Jensen–Shannon divergence in bits, to a model that was never trained; in [0, 1].

    Chundawat et al., arXiv 2205.08096. Raises as `jensen_shannon`.
    """
    return 1 - jensen_shannon(logits, teacher_logits) / math.log(2)


def agreement(logits: Any, reference_logits: Any) -> float:
    """Share of samples (n, classes) with the same most likely class, in [0, 1]. Raises as `jensen_shannon`."""
    ours, theirs = _pair(logits, reference_logits)
    return (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()


def average_gap(measures: Sequence[float], retrained: Sequence[float]) -> float:
    """Mean |measure − retrained| over the measures (k,), in their unit; ≥ 0.

    Raises:
        ValueError: lengths that differ, no measure, NaN.
    """
    return float(np.abs(_measures(measures, "predictions") - _measures(retrained, "references", measures)).mean())


def tug_of_war(accuracies: Sequence[float], retrained: Sequence[float]) -> float:
    """ToW = Π (1 − |accuracy − retrained|) over the sets (k,), accuracies in [0, 1]; in [0, 1], 1 at the retrained model.

    Zhao et al., "What makes unlearning hard and what to do about it", arXiv 2406.01257.

    Raises:
        ValueError: lengths that differ, no accuracy, NaN, a value outside [0, 1].
    """
    ours, theirs = _measures(accuracies, "predictions"), _measures(retrained, "references", accuracies)
    for argument, values in (("predictions", ours), ("references", theirs)):
        if ((values < 0) | (values > 1)).any():
            raise ValueError(
                f"`{argument}` must be accuracies in [0, 1], got {values.tolist()}. Divide percentages by 100."
            )
    return float(np.prod(1 - np.abs(ours - theirs)))


def _measures(values: Any, argument: str, others: Any = None) -> np.ndarray:
    array = to_numpy(values, argument)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        raise ValueError(
            f"`{argument}` must be finite numbers, one per measure, got {values!r}. Leave out what has none."
        )
    if others is not None:
        same_length(predictions=others, references=array)
    return array.astype(np.float64)


def _pair(logits: Any, reference_logits: Any) -> tuple[Tensor, Tensor]:
    ours, theirs = log_probabilities(logits, "predictions"), log_probabilities(reference_logits, "references")
    if ours.shape != theirs.shape:
        raise ValueError(
            f"`references` has shape {tuple(theirs.shape)} and `predictions` {tuple(ours.shape)}: pass both models' logits on "
            "the same samples and classes."
        )
    return ours, theirs


def divergences(logits: Any, reference_logits: Any) -> Tensor:
    """Jensen–Shannon divergence of each sample's softmax outputs (n,), in nats. Raises as `jensen_shannon`."""
    p, q = (log_p.exp() for log_p in _pair(logits, reference_logits))
    m = (p + q) / 2

    def kl(a: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, m)).sum(-1)

    return ((kl(p) + kl(q)) / 2).clamp_min(0)  # rounding goes below 0 where both are equal

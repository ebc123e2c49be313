"""Relearning: how soon a forgotten class is back. It tells forgetting from hiding, which outputs alone cannot."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.forward import classify, eval_mode, model_inputs
from ..models.prediction import predict
from ..models.processor import Processor

NO_LABELS = "`forget_rows` and `probe_rows` need labels: relearning teaches the class again."


def relearning_steps(
    model: nn.Module,
    forget_rows: Sequence[Any],
    probe_rows: Sequence[Any],
    processor: Processor,
    accuracy: float,
    *,
    learning_rate: float = 5e-4,
    limit: int = 200,
) -> int:
    """Adam steps on `forget_rows` until the accuracy on `probe_rows` is back at `accuracy`; `limit` if it never is.

    Works on a copy, all parameters, cross-entropy, eval behaviour. Adam's step has the same size in every layer and
    architecture, so one learning rate serves all of them.

    Args:
        forget_rows: about 20 labelled rows to relearn from.
        probe_rows: labelled rows of the forgotten class, best from a test set.
        accuracy: in [0, 1], such as 0.9 times the original's.
    """
    path = relearning_path(
        model, forget_rows, probe_rows, processor, accuracy, learning_rate=learning_rate, limit=limit
    )
    return steps_of(path, accuracy, limit)


def steps_of(path: Sequence[float], accuracy: float, limit: int) -> int:
    """The steps of a `relearning_path` that came back to `accuracy`; `limit` for one that did not."""
    return len(path) - 1 if path and path[-1] >= accuracy else limit


def relearning_path(
    model: nn.Module,
    forget_rows: Sequence[Any],
    probe_rows: Sequence[Any],
    processor: Processor,
    accuracy: float,
    *,
    learning_rate: float = 5e-4,
    limit: int = 200,
) -> list[float]:
    """Accuracy on `probe_rows` after 0, 1, 2, … steps of `relearning_steps`, up to the one that brings it back."""
    path: list[float] = []
    for step, taught in enumerate(_taught(model, forget_rows, processor, learning_rate)):
        if step == limit:
            break
        logits, labels = predict(taught, probe_rows, processor)
        if labels is None:
            raise ValueError(NO_LABELS)
        path.append((logits.argmax(-1) == labels).float().mean().item())
        if path[-1] >= accuracy:
            break
    return path


def relearning_curve(
    model: nn.Module,
    forget_rows: Sequence[Any],
    probe_rows: Sequence[Any],
    processor: Processor,
    *,
    stop: float = 1.0,
    learning_rate: float = 5e-4,
    limit: int = 100,
) -> list[tuple[int, float]]:
    """(steps, accuracy on `probe_rows`) while `forget_rows` are taught as `relearning_steps` does.

    Looked at after 0 to 8 steps, and from there at every eighth of the steps done, since what matters is the ratio between
    two models' steps. The curve ends at accuracy `stop`, or with `limit` steps.
    """
    if any("labels" not in processor.collate([row]) for row in (forget_rows[0], probe_rows[0])):
        raise ValueError(NO_LABELS)
    device = next(model.parameters()).device
    probe = {k: v.to(device) for k, v in processor.collate(list(probe_rows)).items()}
    curve: list[tuple[int, float]] = []
    following = 0
    for step, taught in enumerate(_taught(model, forget_rows, processor, learning_rate)):
        if step < following:
            continue
        with torch.no_grad(), eval_mode(taught):
            right = classify(taught, model_inputs(probe)).argmax(-1) == probe["labels"]
        curve.append((step, right.float().mean().item()))
        following = min(step + max(1, step // 8), limit)
        if curve[-1][1] >= stop or step >= limit:
            break
    return curve


def _taught(
    model: nn.Module, forget_rows: Sequence[Any], processor: Processor, learning_rate: float
) -> Iterator[nn.Module]:
    """A copy of `model` after 0, 1, 2, … steps on `forget_rows`."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        p.requires_grad_(True)
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in processor.collate(list(forget_rows)).items()}
    if "labels" not in batch:
        raise ValueError(NO_LABELS)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    while True:
        yield model
        with eval_mode(model):
            loss = F.cross_entropy(classify(model, model_inputs(batch)).float(), batch["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

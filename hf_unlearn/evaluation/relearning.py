"""Relearning: how soon a forgotten class is back. It tells forgetting from hiding, which outputs alone cannot."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.forward import classify, eval_mode, model_inputs
from ..models.prediction import predict
from ..models.processor import Processor

NO_LABELS = "`forget_rows` and `probe_rows` need labels: relearning teaches the class again."


def relearn(
    model: nn.Module,
    forget_rows: Sequence[Any],
    probe_rows: Sequence[Any],
    processor: Processor,
    *,
    stop: float = math.inf,
    limit: int = 200,
    every_step: bool = True,
    learning_rate: float = 5e-4,
) -> Iterator[tuple[int, float]]:
    """(steps, accuracy on `probe_rows` in [0, 1]) while a copy of `model` is taught `forget_rows`, from 0 steps on.

    Adam on all parameters, cross-entropy, eval behaviour. Adam's step has the same size in every layer and architecture, so one
    learning rate serves all of them.

    Args:
        model: not changed.
        forget_rows: about 20 labelled rows to relearn from; all of them are in every step.
        probe_rows: labelled rows of the forgotten classes, best from a test set.
        processor: prepares and collates the rows.
        stop: accuracy at which it ends, such as 0.9 times the original's; by default only at `limit`.
        limit: most steps.
        every_step: whether to look after every step. If not, after 0 to 8 steps and from there at every eighth of the steps done:
            what matters is the ratio between two models' steps.
        learning_rate: Adam's.

    Raises:
        ValueError: rows have no labels.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    device = next(model.parameters()).device
    taught = {k: v.to(device) for k, v in processor.collate(list(forget_rows)).items()}
    if "labels" not in taught:
        raise ValueError(NO_LABELS)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    following = 0
    for step in range(limit + 1):
        if step == following:
            logits, labels = predict(model, probe_rows, processor)
            if labels is None:
                raise ValueError(NO_LABELS)
            accuracy = (logits.argmax(-1) == labels).float().mean().item()
            yield step, accuracy
            if accuracy >= stop:
                return
            following = min(step + (1 if every_step else max(1, step // 8)), limit)
        with eval_mode(model):
            loss = F.cross_entropy(classify(model, model_inputs(taught)).float(), taught["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

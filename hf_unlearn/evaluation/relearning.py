"""Relearning: how soon a forgotten class comes back. It tells forgetting from hiding, which outputs alone cannot."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.forward import classify, eval_mode, model_inputs, on_device
from ..models.prediction import predict
from ..models.processor import Processor

RELEARNING_ROWS = 20  # forget rows that a forgotten class is taught again from
RELEARNED = 0.9  # share of the original's accuracy at which a class counts as relearned
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
    """Teach `forget_rows` to a copy of `model`, and yield (steps, accuracy on `probe_rows` in [0, 1]), from 0 steps on.

    The training is Adam on all parameters with cross-entropy, in evaluation mode. Adam's step has the same size in every
    layer and architecture, so one learning rate serves all of them.

    Args:
        model: the model, which stays unchanged.
        forget_rows: about 20 labelled rows to relearn from; every step uses all of them.
        probe_rows: labelled rows of the forgotten classes, best from a test set.
        processor: prepares and collates the rows.
        stop: accuracy at which the training ends, such as 0.9 times the original's; by default it ends only at `limit`.
        limit: the most steps; default 200.
        every_step: measure the accuracy after every step (default). If False, it is measured after each of the first 16
            steps, and later when the number of steps has grown by an eighth: only the ratio of two models' steps matters.
        learning_rate: Adam's learning rate; default 5e-4.

    Raises:
        ValueError: rows have no labels.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    taught = on_device(model, processor.collate(list(forget_rows)))
    if "labels" not in taught:
        raise ValueError(NO_LABELS)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
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
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

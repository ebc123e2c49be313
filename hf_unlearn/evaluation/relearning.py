"""Relearning: how soon a forgotten class is back. It tells forgetting from hiding, which outputs alone cannot."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..processing import Processor, classify, eval_mode, model_inputs, predict


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
    model = copy.deepcopy(model)
    for p in model.parameters():
        p.requires_grad_(True)
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in processor.collate(list(forget_rows)).items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(limit):
        logits, labels = predict(model, probe_rows, processor)
        if labels is None or "labels" not in batch:
            raise ValueError("`forget_rows` and `probe_rows` need labels: relearning teaches the class again.")
        if (logits.argmax(-1) == labels).float().mean().item() >= accuracy:
            return step
        with eval_mode(model):
            loss = F.cross_entropy(classify(model, model_inputs(batch)).float(), batch["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return limit

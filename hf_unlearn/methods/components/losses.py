"""Terms that several methods share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...models.forward import classify, eval_mode, model_inputs


def kl_to_target(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over the batch of KL(target ‖ softmax(logits)) in nats; `target` holds probabilities (B, classes)."""
    return F.kl_div(F.log_softmax(logits.float(), dim=-1), target, reduction="batchmean")


def total_variation(x: Tensor) -> Tensor:
    """Sum of absolute differences between neighbouring pixels of (B, C, H, W)."""
    return x.diff(dim=-1).abs().sum() + x.diff(dim=-2).abs().sum()


def cross_entropy(model: nn.Module, side: Mapping[str, Any], mode: str = "eval") -> Tensor:
    """Mean cross-entropy in nats of one side of a batch, in fp32; `mode="train"`: with dropout, BatchNorm statistics moving."""
    with eval_mode(model) if mode == "eval" else nullcontext():
        return F.cross_entropy(classify(model, model_inputs(side)).float(), side["labels"])

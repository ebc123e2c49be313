"""Terms that several methods share."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.forward import classify, classify_by_length, eval_mode, model_inputs


def kl_to_target(target: Tensor, logits: Tensor) -> Tensor:
    """Return the mean of KL(target ‖ softmax(logits)) over the batch, in nats; `target` holds probabilities (B, classes)."""
    return F.kl_div(F.log_softmax(logits.float(), dim=-1), target, reduction="batchmean")


def joint_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model inputs of both sides of a batch for one forward pass: the retain rows, and then the forget rows."""
    retain, forget = model_inputs(batch["retain"]), model_inputs(batch["forget"])
    return {name: torch.cat([retain[name], forget[name]]) for name in retain}


def joint_logits(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return fp32 logits of the retain rows (R, classes) and of the forget rows (B, classes) from one forward pass.

    The model stays in its mode. So in training mode BatchNorm sees both sides, as it will in use, and not the forget rows alone.
    """
    logits = classify_by_length(model, joint_inputs(batch)).float()
    kept, gone = logits.split([len(logits) - len(batch["index"]), len(batch["index"])])
    return kept, gone


def total_variation(x: Tensor) -> Tensor:
    """Return the sum of absolute differences between adjacent pixels of images (B, C, H, W)."""
    return x.diff(dim=-1).abs().sum() + x.diff(dim=-2).abs().sum()


def cross_entropy(model: nn.Module, side: Mapping[str, Any], mode: str = "eval") -> Tensor:
    """Return the mean cross-entropy of one side of a batch in nats, in fp32; with `mode="train"`, dropout and BatchNorm act."""
    with eval_mode(model) if mode == "eval" else nullcontext():
        return F.cross_entropy(classify(model, model_inputs(side)).float(), side["labels"])

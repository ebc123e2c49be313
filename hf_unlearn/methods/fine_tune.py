"""Fine-tuning on the retain set: forgets only what further training happens to overwrite. A reference to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F

from ..models.forward import classify, eval_mode, model_inputs
from .base import UnlearningMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


def cross_entropy(model: nn.Module, side: Mapping[str, Any], mode: str = "eval") -> Tensor:
    """Mean cross-entropy in nats of one side of a batch, in fp32; `mode="train"`: with dropout, BatchNorm statistics moving."""
    with eval_mode(model) if mode == "eval" else nullcontext():
        return F.cross_entropy(classify(model, model_inputs(side)).float(), side["labels"])


@dataclass(kw_only=True)
class FineTune(UnlearningMethod):
    """min_θ E_{D_r} CE(f_θ(x), y): ordinary training, on the retain set alone.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=FineTune(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "fine_tune"
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp", "fsdp", "deepspeed"})
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"update": "all", "trust_region": 0.0, "learning_rate": 1e-4, "num_train_epochs": 1.0, "max_steps": -1}
    )

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Any) -> dict[str, Tensor]:
        return {"retain": cross_entropy(model, batch["retain"], mode="train")}

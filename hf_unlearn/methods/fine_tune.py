"""Fine-tuning on the retain set: forgets only what further training happens to overwrite. A reference to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from .base import UnlearningMethod
from .components.losses import cross_entropy


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

"""Gradient ascent on the forget set: the oldest baseline, and without a stop the surest way to ruin a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from .base import UnlearningMethod
from .components.losses import cross_entropy


@dataclass(kw_only=True)
class GradientAscent(UnlearningMethod):
    """max_θ E_{D_f} CE(f_θ(x), y): climbs the loss of the forget samples; the trust region and the target bound it.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=GradientAscent(), forget_dataset=split.forget)
        ```
    """

    name: ClassVar[str] = "gradient_ascent"
    needs_labels: ClassVar[bool] = True
    stops_at_target: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp", "fsdp", "deepspeed"})
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"update": "all", "trust_region": 0.002, "max_steps": 100, "check_steps": 1}
    )

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Any) -> dict[str, Tensor]:
        return {"forget": -cross_entropy(model, batch["forget"])}

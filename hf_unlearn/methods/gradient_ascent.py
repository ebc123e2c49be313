"""Gradient ascent on the forget set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .base import EVERY_BACKEND, UnlearningMethod
from .components.losses import cross_entropy


@dataclass(kw_only=True)
class GradientAscent(UnlearningMethod):
    """Climb the cross-entropy of the forget set; the trust region and the target limit how far.

        max_θ E_{D_f} CE(f_θ(x), y)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | not read | 1 | none |

    Use it as the oldest baseline. Do not use it without a target: the loss has no maximum, and the model is soon ruined.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=GradientAscent(), forget_dataset=split.forget)
        ```
    """

    name: ClassVar[str] = "gradient_ascent"
    needs_labels: ClassVar[bool] = True
    stops_at_target: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = EVERY_BACKEND
    arguments: ClassVar[Mapping[str, Any]] = {
        "update": "all",
        "trust_region": 0.002,
        "max_steps": 100,
        "check_steps": 1,
    }

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Any) -> dict[str, Tensor]:
        return {"forget": -cross_entropy(model, batch["forget"])}

"""Gradient difference: ascent on the forget set, descent on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .base import setting
from .components.losses import cross_entropy
from .gradient_ascent import GradientAscent


@dataclass(kw_only=True)
class GradientDifference(GradientAscent):
    """Climb the loss of the forget set and descend that of the retain set (Liu, Liu and Stone 2022).

    Source: "Continual Learning and Private Unlearning" (2022).

        min_θ  E_{D_r} CE(f_θ(x), y) − α E_{D_f} CE(f_θ(x), y)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 2 | none |

    Use it as a baseline that keeps more than gradient ascent. Do not use it with these defaults on a model that was fine-tuned
    from a public base: one step of 0.002 of each tensor's norm is then as long as the whole way of the fine-tuning.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=GradientDifference(),
                          forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "gradient_difference"
    needs_retain: ClassVar[bool] = True
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"forget_weight": (0.05, 2.0)}

    forget_weight: float = setting(1.0, "Weight α of the ascent on the forget set.")

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Any) -> dict[str, Tensor]:
        forget = super().loss(model, batch, reference)["forget"]
        return {"retain": cross_entropy(model, batch["retain"]), "forget": self.forget_weight * forget}

"""Fine-tuning on the retain set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .base import ALL_WEIGHTS, EVERY_BACKEND, UnlearningMethod
from .components.losses import cross_entropy


@dataclass(kw_only=True)
class FineTune(UnlearningMethod):
    """Train on the retain set alone, and forget only what that happens to overwrite.

        min_θ E_{D_r} CE(f_θ(x), y)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | not read | inputs, labels | 1 | none |

    Use it as a baseline. Do not rely on it: the forget set is mostly still remembered after a few epochs.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=FineTune(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "fine_tune"
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    backends: ClassVar[frozenset[str]] = EVERY_BACKEND
    arguments: ClassVar[Mapping[str, Any]] = {**ALL_WEIGHTS, "learning_rate": 1e-4, "num_train_epochs": 1.0}

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Any) -> dict[str, Tensor]:
        return {"retain": cross_entropy(model, batch["retain"], mode="train")}

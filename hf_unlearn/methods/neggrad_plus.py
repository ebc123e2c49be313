"""NegGrad+: descent on the retain set, and a bounded ascent on the forget set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.reference import Reference
from .base import Paper, setting
from .baseline import Baseline
from .components.losses import joint_logits


@dataclass(kw_only=True)
class NegGradPlus(Baseline):
    """Descend the loss of the retain set and climb that of the forget set (Kurmanji et al., arXiv 2302.09880, §4).

        min_θ  a E_{D_r} CE(f_θ(x), y) − (1 − a) E_{D_f} min(CE(f_θ(x), y), log C)

    C is the number of classes. The published loss has no bound, so the ascent ruins the model if it goes on. A row at log C is given
    its label as likely as by chance, and pulls no more. `bounded=False` is the published form.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 | none |

    Use it as the baseline to beat: it is simple and strong by its outputs. Do not take its outputs for depth: a few steps on forget
    rows bring them back.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=NegGradPlus(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "neggrad_plus"
    paper: ClassVar[Paper | None] = Paper("Towards Unbounded Machine Unlearning", "2302.09880")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_share": (0.5, 0.99)}

    retain_share: float = setting(0.9, "Share a of the loss that is that of the retain set, in (0, 1).")
    bounded: bool = setting(True, "Climb no further than log C for each row. False: without a bound, as published.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.retain_share < 1:
            raise ValueError(f"`retain_share` is a share of the loss, in (0, 1), got {self.retain_share}.")

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        kept, gone = joint_logits(model, batch)
        lost = F.cross_entropy(gone, batch["forget"]["labels"], reduction="none")
        if self.bounded:
            lost = lost.clamp_max(math.log(gone.shape[-1]))
        return {
            "retain": self.retain_share * F.cross_entropy(kept, batch["retain"]["labels"]),
            "forget": -(1 - self.retain_share) * lost.mean(),
        }

"""ℓ1-sparse fine-tuning: training on the retain set while weights shrink."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.forward import classify_by_length, model_inputs
from ..models.reference import Reference
from ..utils.argument_checks import check_positive
from .base import Paper, setting
from .baseline import Baseline

PUBLISHED = 11.2e6  # weights of the ResNet-18 for which α was chosen: the penalty is a sum over weights


@dataclass(kw_only=True)
class L1Sparse(Baseline):
    """Train on the retain set with a penalty on the size of all weights, which ends at zero (Jia et al., arXiv 2304.04934, eq. 4).

        min_θ  E_{D_r} CE(f_θ(x), y) + α_t ‖θ‖₁,    α_t = α (1 − t/T) · 11.2 million / number of weights

    α falls to zero over the T steps. It was chosen for a ResNet-18, and the penalty is a sum over weights, so it is scaled by
    their number.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | not read | inputs, labels | 1 | none |

    Use it as a baseline that needs no forget rows. Do not use it on a fine-tuned public base without a look at kept accuracy: the
    penalty pulls the base's own knowledge to zero as well.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=L1Sparse(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "l1_sparse"
    paper: ClassVar[Paper | None] = Paper("Model Sparsity Can Simplify Machine Unlearning", "2304.04934")
    needs_forget: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (1e-5, 1e-2)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **Baseline.arguments,
        "per_device_train_batch_size": 16,
        "retain_per_forget": 1,
    }

    alpha: float = setting(5e-4, "Weight α of the penalty at the first step, for a network of 11.2 million weights.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "alpha")

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        logits = classify_by_length(model, model_inputs(batch["retain"])).float()
        moving = [p for p in model.parameters() if p.requires_grad]
        alpha = self.alpha * (1 - self.progress) * PUBLISHED / sum(p.numel() for p in moving)
        return {
            "retain": F.cross_entropy(logits, batch["retain"]["labels"]),
            "penalty": alpha * torch.stack([p.abs().sum(dtype=torch.float32) for p in moving]).sum(),
        }

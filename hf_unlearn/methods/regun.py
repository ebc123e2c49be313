"""ReGUn: forget rows are answered as the original answers unseen rows of their class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.reference import Reference
from .base import Paper, setting
from .baseline import Baseline
from .components.losses import joint_logits, kl_to_target
from .protocols import UnlearningRun

HELD_OUT_ROWS = 4096  # most that the means are taken over


@dataclass(kw_only=True)
class ReGUn(Baseline):
    """Answer a forget row as the original answers held-out rows of its class, on the mean (arXiv 2603.11210).

    q_y is the mean softmax of the original f₀ over rows of class y that it was not trained on:

        min_θ  λ_f E_{D_f} KL(q_y ‖ f_θ(x)) + λ_r E_{D_r} CE(f_θ(x), y)

    That is the form of the authors' code that is called class-informed. A class without held-out rows gets the mean over all.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 | none; held-out rows with labels are read once before the first step |

    Use it as a baseline for single rows. Do not use it for a class: the original knows unseen rows of that class too.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=ReGUn(), forget_dataset=split.forget, retain_dataset=split.retain,
                          eval_dataset=validation)
        ```
    """

    name: ClassVar[str] = "regun"
    paper: ClassVar[Paper | None] = Paper("Reference-Guided Machine Unlearning", "2603.11210")
    kinds: ClassVar[frozenset[str]] = frozenset({"samples"})
    reads_held_out: ClassVar[bool] = True
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"forget_weight": (0.05, 0.95)}

    forget_weight: float = setting(0.5, "Weight λ_f of the forget rows, in (0, 1). Retain rows have the rest.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.forget_weight < 1:
            raise ValueError(f"`forget_weight` is a share of the loss, in (0, 1), got {self.forget_weight}.")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        reference = run.reference
        if reference.forgotten_classes:
            raise ValueError(
                "`method='regun'` forgets single rows, and this request names a whole class, of which the original knows unseen rows too. "
                "Use `surrogate_distillation`, or `delete` without rows to keep."
            )
        held_out = run.monitor.held_out_answers(HELD_OUT_ROWS)
        if held_out is None:
            raise ValueError(
                "`method='regun'` needs rows with labels that the original was not trained on. Pass them as `eval_dataset`."
            )
        logits, known = held_out
        labels = reference.predictions if reference.labels is None else reference.labels
        self._targets = class_means(logits.softmax(-1), known)[labels]

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        kept, gone = joint_logits(model, batch)
        targets = self._targets[batch["index"].cpu()].to(gone.device)
        return {
            "retain": (1 - self.forget_weight) * F.cross_entropy(kept, batch["retain"]["labels"]),
            "forget": self.forget_weight * kl_to_target(targets, gone),
        }


def class_means(p: Tensor, labels: Tensor) -> Tensor:
    """Return the mean (classes, classes) of probabilities `p` (n, classes) over the rows of each class; of all rows for an empty one."""
    means = p.mean(0).repeat(p.shape[1], 1)
    for label in labels.unique():
        means[label] = p[labels == label].mean(0)
    return means / means.sum(-1, keepdim=True)

"""DELETE: the original's outputs on the forget rows, without the label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import classify, eval_mode, model_inputs
from ..models.reference import Reference
from .base import Paper
from .baseline import ForgetOnlyBaseline
from .components.losses import kl_to_target
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class Delete(ForgetOnlyBaseline):
    """Distill the original's outputs with each row's own label struck out, on the forget rows alone (arXiv 2503.23751, eq. 8).

        min_θ  E_{D_f} KL(p̃(x) ‖ f_θ(x)),    p̃(x) = softmax(f₀(x) with a logit of −∞ for the label y)

    Dropout is off, and BatchNorm statistics stay, which the authors' code offers as an option: they would become those of the
    forget rows alone. `counterfactual_distillation` adds what is to be kept and a simulated relearning to this target.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | not read | 1 | none |

    Use it as a baseline for a class without retain data. Do not take its outputs for depth: the target changes what is said, and
    hardly what is known.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=Delete(), forget_dataset=split.forget)
        ```
    """

    name: ClassVar[str] = "delete"
    paper: ClassVar[Paper | None] = Paper("Decoupled Distillation to Erase", "2503.23751")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        reference = run.reference
        labels = reference.predictions if reference.labels is None else reference.labels
        self._targets = reference.logits.scatter(1, labels[:, None], -torch.inf).softmax(-1)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        return {"forget": kl_to_target(self._targets[batch["index"].cpu()].to(logits.device), logits)}

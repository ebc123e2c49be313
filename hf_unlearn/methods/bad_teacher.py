"""Bad teacher: what an untrained network says of the forget rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import model_inputs
from ..models.prediction import predict
from ..models.reference import FrozenOriginal, Reference
from .base import Paper, setting
from .baseline import Baseline
from .components.losses import joint_logits, kl_to_target
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class BadTeacher(Baseline):
    """Learn an untrained network's outputs on forget rows, and keep the original's on retain rows (arXiv 2205.08096, eq. 2).

    f_u is a network of the same architecture with random weights, f₀ the original:

        min_θ  E_{D_r ∪ D_f} [ l KL(f_u(x) ‖ f_θ(x)) + (1 − l) KL(f₀(x) ‖ f_θ(x)) ],    l = 1 on D_f and 0 on D_r

    The authors read 30 % of the retain set once, and so does this. Their code divides the divergence by the number of classes, which
    Adam does not see; here it is the paper's. An untrained network's outputs depend on its seed, which is that of the run.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | inputs | 1, and 1 of the original on retain rows | one copy of the model |

    Use it as a baseline that reads no labels. Do not use it to hide which rows were forgotten: it is less sure of them than any
    retrained model.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=BadTeacher(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "bad_teacher"
    paper: ClassVar[Paper | None] = Paper(
        "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent Teacher", "2205.08096"
    )
    needs_labels: ClassVar[bool] = False

    passes: float = setting(
        0.3, "Passes over the retain set, twice as many for an original that was trained from random weights."
    )

    def reads_labels(self, side: str) -> bool:
        return False

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        self._original = FrozenOriginal(run.model, run.patch)
        logits, _ = predict(run.fresh_model(), run.forget_rows, run.processor, run.args.eval_batch_size)
        self._targets = logits.softmax(-1)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        kept, gone = joint_logits(model, batch)
        share = len(gone) / (len(kept) + len(gone))
        targets = self._targets[batch["index"].cpu()].to(gone.device)
        original = self._original.logits(model_inputs(batch["retain"])).softmax(-1)
        return {
            "retain": (1 - share) * kl_to_target(original, kept),
            "forget": share * kl_to_target(targets, gone),
        }

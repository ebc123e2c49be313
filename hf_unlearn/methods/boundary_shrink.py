"""Boundary Shrink: forget rows get the label of the nearest other class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import classify, continuous_input, eval_mode, model_inputs, on_device, replace_by
from ..models.reference import Reference
from ..utils.argument_checks import check_positive
from .base import Paper, setting
from .baseline import ForgetOnlyBaseline
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class BoundaryShrink(ForgetOnlyBaseline):
    """Teach each forget row the class that one adversarial step brings it to (Chen et al., arXiv 2303.11570, eq. 4 and 5).

    f₀ is the original, ε the step as a share of the standard deviation of the inputs:

        min_θ  E_{D_f} CE(f_θ(x), y'),    y' = argmax f₀(clip(x + ε sign ∇ₓ CE(f₀(x), y)))

    The published step is 0.1 of the range of pixels, which is 0.4 of the standard deviation of CIFAR-10. For texts it moves the
    embeddings. As in the authors' code, y' may be y where the step does not reach another class, unless y is a forgotten class:
    then y' is the most likely class that is kept.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | not read | 1; 1 more for each row before the first step | none |

    Use it as a baseline for a class without retain data. Do not use it for single rows, most of which keep their label.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=BoundaryShrink(), forget_dataset=split.forget)
        ```
    """

    name: ClassVar[str] = "boundary_shrink"
    paper: ClassVar[Paper | None] = Paper(
        "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary", "2303.11570"
    )
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"epsilon": (0.1, 3.0)}

    epsilon: float = setting(
        0.4, "Length ε of the adversarial step, as a share of the standard deviation of the inputs."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epsilon")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        self._labels = torch.cat([self._nearest(run, batch) for batch in _batches(run)])

    def _nearest(self, run: UnlearningRun, batch: Mapping[str, Any]) -> Tensor:
        """Return the class (B,) that one step brings each row of `batch` to."""
        reference, inputs = run.reference, model_inputs(batch)
        with eval_mode(run.model, recompute=False), torch.enable_grad():
            x, mask = continuous_input(run.model, inputs)
            x = x.detach().requires_grad_()
            loss = F.cross_entropy(classify(run.model, inputs, replace_by(x)).float(), batch["labels"], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            moved = x + self.epsilon * reference.input_std * gradient.sign() * mask
            moved = moved.clamp(reference.input_min, reference.input_max).detach()
            with torch.no_grad():
                logits = classify(run.model, inputs, replace_by(moved)).float()
        return reference.struck_out(logits).argmax(-1).cpu()

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"])).float()
        return {"forget": F.cross_entropy(logits, self._labels[batch["index"].cpu()].to(logits.device))}


def _batches(run: UnlearningRun) -> Any:
    rows, size = run.forget_rows, run.args.eval_batch_size
    for first in range(0, len(rows), size):
        batch = run.processor.collate(rows.many(range(first, min(first + size, len(rows)))))
        yield on_device(run.model, batch)

"""Counterfactual distillation: the original as if it had never learned the forgotten classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.forward import classify, eval_mode, model_inputs
from ..models.reference import Reference
from ..utils.distributed import sum_over_processes, sums_over_processes
from .base import Paper, UnlearningMethod, setting
from .components.counterfactual_anchors import ROUNDS, STARTS, STEPS
from .components.losses import kl_to_target
from .components.trust_region import relative_step
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class CounterfactualDistillation(UnlearningMethod):
    """Distill the original's outputs without the forgotten classes into the model itself: DELETE, with two additions of ours.

    With p̃(x) = softmax(f₀(x) without the logits of the forgotten classes), f₀ the original, minimize

        KL(p̃(x) ‖ f_θ(x)) over forget inputs x  +  λ KL(p̃(a) ‖ f_θ(a)) over counterfactual anchors a

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | not read | 2, and 5 more for the attack | the anchors and one copy of the weights |

    The first term is DELETE's (arXiv 2503.23751; here the method `delete`), whose form that moves the head alone is the head
    distillation of arXiv 2405.17878. The anchors and the simulated attack are ours. Without retain data, p̃ is the best guess of
    what a retrained model answers. Anchors are forget inputs that gradient ascent on
    the original moved into a kept class. Outputs alone are shallow: a few gradient steps on forget samples would bring the
    class back. So every step also simulates an attack, `relearning_steps` steps that teach this batch's class again, and adds
    the gradient of the first term at the relearned weights (first-order, as in tamper-resistant training, arXiv 2408.00761).

    Use it to forget whole classes of images without retain data. Do not use it for single rows, where no class can be struck
    out, nor on text without checking kept accuracy afterwards: anchors in embedding space stand in for texts only partly.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"),
                                    method=CounterfactualDistillation(), forget_dataset=split.forget)
        ```
    """

    name: ClassVar[str] = "counterfactual_distillation"
    paper: ClassVar[Paper | None] = Paper("Decoupled Distillation to Erase", "2503.23751")
    kinds: ClassVar[frozenset[str]] = frozenset({"class"})
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "its simulated attack moves whole weights and takes gradients outside of the step that FSDP gathers",
        "deepspeed": "its simulated attack adds to gradients that DeepSpeed keeps to itself",
    }
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"anchor_weight": (0.5, 10.0)}
    arguments: ClassVar[dict[str, Any]] = {"update": "all", "trust_region": 0.002, "max_steps": 120, "check_steps": 20}

    anchors: bool | None = setting(True, "Also keep outputs on counterfactual anchors, a stand-in for retain data.")
    anchor_weight: float = setting(3.0, "Weight λ of the KL divergence on the anchors.")
    relearning_steps: int = setting(4, "Steps of the simulated relearning attack. 0 is cheaper and shallower.")
    relearning_length: float = setting(0.015, "Length of a step of the attack, as a share of each tensor's norm.")
    relearning_weight: float = setting(0.4, "Weight of the gradient at the relearned weights.")

    def __post_init__(self) -> None:
        if self.relearning_steps < 0:
            raise ValueError(f"`relearning_steps` must not be negative, got {self.relearning_steps}.")
        if not 0 < self.relearning_length < 1:
            raise ValueError(f"`relearning_length` is a share of a norm, in (0, 1), got {self.relearning_length}.")

    def rows_before_steps(self, forget_rows: int, retain_rows: int, weights: int) -> int:
        return STARTS * STEPS * ROUNDS if self.anchors else 0  # at most: a start that has arrived stops

    def passes_a_step(self) -> float:
        # The attack reads every second row in each of its steps, and at its end the gradient is taken on all of them.
        attack = self.relearning_steps / 2 + 1 if self.relearning_steps else 0
        return 1 + bool(self.anchors) + attack

    def setup(self, run: UnlearningRun) -> None:
        reference = run.reference
        if not reference.forgotten_classes:
            raise ValueError(
                "`method='counterfactual_distillation'` forgets whole classes, and this forget set names single samples. "
                "Use `jit`, or say `forget_kind='class'` if it is the whole class."
            )
        if run.args.fp16 and self.relearning_steps:
            raise ValueError(
                "`fp16=True` scales gradients, and the simulated attack adds its own unscaled. Use `bf16=True`, or "
                "`relearning_steps=0`."
            )
        self._reference = reference
        classes = torch.tensor(reference.forgotten_classes)
        self._relearned = classes[reference.logits[:, classes].argmax(-1)]  # what an attacker would teach again
        self._seen: list[tuple[dict[str, Any], Tensor]] = []  # inputs and row numbers of this step
        self._attacker_rows: list[tuple[dict[str, Any], Tensor]] = []  # the part of them that the attacker has

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        inputs, index = model_inputs(batch["forget"]), batch["index"].cpu()
        if self.relearning_steps and batch.get("share", 1.0):
            self._seen.append((inputs, index))
            # The attacker holds every second row of the step, in whichever micro-batch or process the row is.
            known = batch.get("places", torch.arange(len(index))) % 2 == 0
            if known.any():
                rows = {k: v[known.to(v.device)] for k, v in inputs.items()}
                self._attacker_rows.append((rows, index[known.cpu()]))
        return {"forget": self._distil(model, inputs, index)}

    def _distil(self, model: nn.Module, inputs: Mapping[str, Any], index: Tensor) -> Tensor:
        """Return the mean KL divergence from the original without the forgotten classes."""
        with eval_mode(model):
            logits = classify(model, inputs)
        target = self._reference.struck_out(self._reference.logits[index].to(logits.device))
        return kl_to_target(target.softmax(-1), logits)

    def _relearn(self, model: nn.Module, inputs: Mapping[str, Any], index: Tensor) -> Tensor:
        """Return the cross-entropy of the forgotten class."""
        with eval_mode(model):
            logits = classify(model, inputs)
        return F.cross_entropy(logits.float(), self._relearned[index].to(logits.device))

    def adjust_gradients(self, model: nn.Module) -> None:
        """Add the gradient at the weights that a relearning attack would reach from here."""
        if not self.relearning_steps:
            return
        moved = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
        saved = [p.detach().clone() for p in moved]
        for _ in range(self.relearning_steps):
            relative_step(moved, _gradient(self._relearn, self._attacker_rows, model, moved), self.relearning_length)
        after = _gradient(self._distil, self._seen, model, moved)
        with torch.no_grad():
            for p, before, g in zip(moved, saved, after, strict=True):
                p.copy_(before)
                p.grad.add_(g, alpha=self.relearning_weight)  # type: ignore[union-attr]
        self._seen.clear()
        self._attacker_rows.clear()


def _gradient(
    objective: Callable[..., Tensor],
    rows: list[tuple[dict[str, Any], Tensor]],
    model: nn.Module,
    moved: list[nn.Parameter],
) -> list[Tensor]:
    """Return the gradient of the mean `objective` over `rows` of all micro-batches and processes."""
    (count,) = sums_over_processes([sum(len(index) for _, index in rows)])
    total = [torch.zeros_like(p) for p in moved]
    for inputs, index in rows:
        gradients = torch.autograd.grad(objective(model, inputs, index), moved, allow_unused=True)
        for sum_, g in zip(total, gradients, strict=True):
            if g is not None:
                sum_.add_(g, alpha=len(index) / count)
    return [sum_over_processes(sum_) for sum_ in total]

"""SalUn: random labels for the forget rows, learned by the weights that matter most for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import unwrap
from ..models.reference import Reference
from .base import Paper, setting
from .baseline import Baseline
from .components.influence import Sample, mean_gradients
from .components.losses import joint_logits
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class SalUn(Baseline):
    """Teach random labels on the forget rows and the true ones on retain rows (Fan et al., arXiv 2310.12508, eq. 5).

    Only the share s of the weights with the largest |∇ E_{D_f} CE(f_θ₀(x), y)| may move. With ỹ ≠ y drawn once for each row:

        min_θ  E_{(x, y) in D_r ∪ D_f'} CE(f_θ(x), y),    D_f' = {(x, ỹ)},    θ = θ₀ outside of the mask

    With `saliency=1`, the default, all weights move: that is random labels (amnesiac unlearning, arXiv 2010.10981). The published
    share is 0.5. If a class is forgotten, ỹ is one of the classes that are kept. Every row weighs alike, as in one mixed set.

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs, labels | inputs, labels | 1 | none; with a mask one bit for each weight, and a copy of the weights |

    Use it as a baseline for a class. Do not use it to hide which rows were forgotten: a retrained model gives no random answers.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=SalUn(saliency=0.5), forget_dataset=split.forget,
                          retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "salun"
    paper: ClassVar[Paper | None] = Paper(
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", "2310.12508"
    )
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"saliency": (0.1, 1.0)}

    saliency: float = setting(1.0, "Share s of the weights that may move, in (0, 1]. 1: all, which is random labels.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.saliency <= 1:
            raise ValueError(f"`saliency` is a share of the weights, in (0, 1], got {self.saliency}.")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        reference = run.reference
        labels = reference.predictions if reference.labels is None else reference.labels
        self._labels = other_labels(labels, reference.kept_classes, run.args.seed)
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}
        if self.saliency < 1:
            masks = saliency_masks(run, self.saliency)
            parameters = dict(unwrap(run.model).named_parameters())
            self._kept = {n: (mask, parameters[n].detach().clone()) for n, mask in masks.items()}

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        kept, gone = joint_logits(model, batch)
        share = len(gone) / (len(kept) + len(gone))
        wrong = self._labels[batch["index"].cpu()].to(gone.device)
        return {
            "retain": (1 - share) * F.cross_entropy(kept, batch["retain"]["labels"]),
            "forget": share * F.cross_entropy(gone, wrong),
        }

    def adjust_gradients(self, model: nn.Module) -> None:
        for name, parameter in unwrap(model).named_parameters():
            if name in self._kept and parameter.grad is not None:
                parameter.grad.mul_(self._kept[name][0])

    @torch.no_grad()
    def after_step(self, model: nn.Module, learning_rate: float, share: float) -> None:
        """Give the other weights their former values, which decay and momentum of the optimizer would change."""
        for name, parameter in unwrap(model).named_parameters():
            if name in self._kept:
                mask, former = self._kept[name]
                parameter.copy_(torch.where(mask, parameter, former))


def other_labels(labels: Tensor, allowed: list[int], seed: int) -> Tensor:
    """Return for each of `labels` (n,) another class among `allowed`, drawn by `seed`.

    Raises:
        ValueError: no other class is allowed.
    """
    if len(allowed) < 1 + bool(torch.isin(labels, torch.tensor(allowed)).any()):
        raise ValueError("There is no class left whose label the forget rows could be given.")
    classes, draw = torch.tensor(allowed), torch.Generator().manual_seed(seed)
    own = (labels[:, None] == classes).long()  # (n, allowed)
    place = own.argmax(1)  # of the label among the allowed classes, where it is one of them
    count = len(allowed) - own.sum(1)
    drawn = (torch.rand(len(labels), generator=draw, dtype=torch.float64) * count).long()
    return classes[drawn + ((own.sum(1) > 0) & (drawn >= place)).long()]


def saliency_masks(run: UnlearningRun, share: float) -> dict[str, Tensor]:
    """Return for each parameter that may move which weights are among the `share` with the largest gradient on the forget set."""
    names = [n for n, p in unwrap(run.model).named_parameters() if p.requires_grad]
    sample = Sample(run.forget_rows, run.processor.collate, cap=len(run.forget_rows))
    gradients = mean_gradients(run.model, names, sample)
    sizes = torch.cat([g.abs().flatten() for g in gradients.values()])
    least = sizes.kthvalue(len(sizes) - max(1, round(share * len(sizes))) + 1).values
    return {n: g.abs() >= least for n, g in gradients.items()}

"""Marginal unlearning: no output tells whether the forget rows were in the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.functional.information import disjoint_information, marginal_information
from ..models.forward import classify, eval_mode, model_inputs
from ..models.reference import FrozenOriginal, Reference
from .base import setting
from .components.losses import kl_to_target
from .components.pooled_sums import class_sums, means
from .pooled_information import PooledInformation
from .protocols import UnlearningRun

UTILITIES = ("cross_entropy", "kl")


@dataclass(kw_only=True)
class MarginalInformation(PooledInformation):
    """Data-point unlearning of IT-reg (Xu and Strohmer, "Machine Unlearning via Information Theoretic Regularization", arXiv 2502.05684).

    Needs forget inputs and the retain set; labels of the forget set are never read. Z tells whether an output was drawn from
    the union D_r ∪ D_f or from D_r alone, Ŷ is the predicted class. With p̄ the mean softmax of a side, minimise [source]

        CE(retain) + γ Î(Ŷ; Z),    Î = H(π_0 m_0 + π_1 m_1) − π_0 H(m_0) − π_1 H(m_1),   m_1 = p̄_r,  m_0 = (1−ρ) p̄_r + ρ p̄_f

    in closed form [derived, equal to the authors' estimator], from one forward pass of [retain; forget]. Î is that of the
    global batch, over processes and exactly over accumulation steps (at one more forward pass, without gradient, where
    there is accumulation). [derived]: γ weights Î over its greatest value at these batch sizes, so that it means the same at
    any batch ratio; `normalise=False` is the paper's raw γ. `utility="kl"` holds the retain outputs at the original's, with
    no labels (arXiv 2511.11914). `conditional` sums Î(Ŷ; Z | Y=y) over the classes; it reads labels of both sides.

    γ sets the speed, and running on damages a class: the stop is part of the method, see `control.py`.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=MarginalInformation(),
                                    forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "marginal_information"
    stops_at_target: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "update": "all",
            "trust_region": 0.0,
            "learning_rate": 1e-3,
            "num_train_epochs": 20.0,
            "max_steps": -1,
            "check_steps": 16,
            "weight_average": 0.98,
            "per_device_train_batch_size": 16,
            "retain_per_forget": 4,
        }
    )

    gamma: float = setting(0.15, "Weight γ of the information, over its greatest possible value (see `normalise`).")
    utility: str = setting(
        "cross_entropy", "What holds the retain set: `cross_entropy` of its labels, or `kl` to the original's outputs."
    )
    conditional: bool = setting(False, "Information given the label, Σ_y π_y Î(Ŷ;Z|Y=y); reads labels of both sides.")
    normalise: bool = setting(True, "Divide the information by its value at disjoint outputs; off: the paper's raw γ.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma > 0:
            raise ValueError(f"`gamma` must be positive, got {self.gamma}: without it nothing is forgotten.")
        if self.utility not in UTILITIES:
            raise ValueError(f"`utility={self.utility!r}` is not one of {', '.join(map(repr, UTILITIES))}.")

    def reads_labels(self, side: str) -> bool:
        return self.conditional or (side == "retain" and self.utility == "cross_entropy")

    def setup(self, run: UnlearningRun) -> None:
        classes = run.reference.logits.shape[-1]
        if classes < 2:
            raise ValueError(
                f"`method={self.name!r}` needs a classifier of two or more classes, and the head has {classes}."
            )
        if self.conditional and run.reference.forgotten_classes:
            raise ValueError(
                "`conditional=True` compares forget and retain rows of one class, and the retain set has none of a class that "
                "is forgotten whole: there would be nothing to follow. Leave it off."
            )
        super().setup(run)
        self._original = FrozenOriginal(run.model, run.patch) if self.utility == "kl" else None

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        information = self._information(self.pooled(logits, batch))
        utility = self._utility(logits[: _size(batch["retain"])], batch["retain"])
        return {"retain": utility, "information": self.gamma * self.term(information, batch)}

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """(retain rows, then forget rows; classes), in fp32: one forward pass."""
        retain, forget = model_inputs(batch["retain"]), model_inputs(batch["forget"])
        with eval_mode(model):
            return classify(model, {k: torch.cat([retain[k], forget[k]]) for k in retain}).float()

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Sums (2, C + 1) of softmax outputs over retain and forget rows; (classes, 2, C + 1) given the label."""
        classes = logits.shape[-1]
        side = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        side[_size(batch["retain"]) :] = 1
        probabilities = logits.log_softmax(-1).exp()
        if not self.conditional:
            return class_sums(probabilities, side, 2)
        labels = torch.cat([batch["retain"]["labels"], batch["forget"]["labels"]])
        return class_sums(probabilities, 2 * labels + side, 2 * classes).view(classes, 2, -1)

    def _information(self, total: Tensor) -> Tensor:
        """Î of pooled sums, in nats, or over its greatest value."""
        if not self.conditional:
            return self._cell_information(total)
        by_label = total[..., -1].sum(-1)
        values = torch.stack([self._cell_information(cell) for cell in total])
        return (by_label / by_label.sum() * values).sum()

    def _cell_information(self, total: Tensor) -> Tensor:
        mean, count = means(total)
        value = marginal_information(mean[0], mean[1], count[0], count[1])
        if not self.normalise or not (count > 0).all():
            return value
        return value / disjoint_information(count[0], count[1]).to(value)

    def _utility(self, logits: Tensor, retain: Mapping[str, Any]) -> Tensor:
        if self._original is None:
            return F.cross_entropy(logits, retain["labels"])
        return kl_to_target(self._original.logits(model_inputs(retain)).softmax(-1), logits)


def _size(side: Mapping[str, Any]) -> int:
    return len(next(iter(side.values())))

"""Marginal unlearning: no output shows whether the forget rows were in the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.functional.information import disjoint_information, marginal_information
from ..models.forward import classify, eval_mode, model_inputs
from ..models.reference import FrozenOriginal, Reference
from .base import ALL_WEIGHTS, setting
from .components.losses import joint_inputs, kl_to_target
from .components.pooled_sums import class_sums, means
from .pooled_information import PooledInformation
from .protocols import UnlearningRun

UTILITIES = ("cross_entropy", "kl")


@dataclass(kw_only=True)
class MarginalInformation(PooledInformation):
    """Minimize what an output says about whether forget rows were in the data (IT-reg for data points, Xu and Strohmer).

    Z says whether an output was drawn from the union D_r ∪ D_f (Z = 0) or from D_r alone (Z = 1), Ŷ is the predicted class, p̄
    the mean softmax of a side, ρ the share of D_f in the union and π_0, π_1 the shares of the two draws:

        CE(retain) + γ Î(Ŷ; Z),    Î = H(π_0 m_0 + π_1 m_1) − π_0 H(m_0) − π_1 H(m_1),   m_1 = p̄_r,  m_0 = (1−ρ) p̄_r + ρ p̄_f

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | inputs, labels | 1; 1 more for each of several micro-batches, and for `utility="kl"` | none; for `kl` one model |

    The objective is the paper's (arXiv 2502.05684) [source]. The closed form of Î equals the authors' estimator [derived]. Î is
    that of the global batch, over processes and exactly over accumulation steps. γ multiplies Î over its greatest value at
    these batch sizes, so that it means the same at any batch ratio [derived]. `utility="kl"` is from arXiv 2511.11914.
    `conditional` sums Î(Ŷ; Z | Y=y) over the classes [derived].

    Use it for a class or for single rows if the retain set is at hand. Do not run it without a target or held-out rows: γ sets
    the speed, running on damages a class, and so stopping is part of the method (see `training/stopping.py`).

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=MarginalInformation(),
                                    forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "marginal_information"
    stops_at_target: ClassVar[bool] = True
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0.03, 1.0)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **ALL_WEIGHTS,
        "learning_rate": 1e-3,
        "num_train_epochs": 20.0,
        "check_steps": 16,
        "weight_average": 0.98,
        "per_device_train_batch_size": 16,
        "retain_per_forget": 4,
    }

    gamma: float = setting(0.15, "Weight γ of the information, as a share of its greatest value (see `normalise`).")
    utility: str = setting(
        "cross_entropy",
        "What holds the retain set: `cross_entropy` reads its labels, `kl` keeps the original's outputs and reads no labels.",
    )
    conditional: bool = setting(False, "Measure within each class, Σ_y π_y Î(Ŷ;Z|Y=y), with labels of both sets.")
    normalise: bool = setting(True, "Divide the information by its greatest value. If off, γ is the paper's own.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma > 0:
            raise ValueError(f"`gamma` must be positive, got {self.gamma}: without it nothing is forgotten.")
        if self.utility not in UTILITIES:
            raise ValueError(f"`utility={self.utility!r}` is not one of {', '.join(map(repr, UTILITIES))}.")

    def reads_labels(self, side: str) -> bool:
        return self.conditional or (side == "retain" and self.utility == "cross_entropy")

    def setup(self, run: UnlearningRun) -> None:
        if self.conditional and run.reference.forgotten_classes:
            raise ValueError(
                "`conditional=True` compares forget and retain rows of one class, and the retain set has none of a class that "
                "is forgotten whole: there would be nothing to compare. Leave it off."
            )
        super().setup(run)
        self._original = FrozenOriginal(run.model, run.patch) if self.utility == "kl" else None

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        information = self._information(self.pooled(logits, batch))
        utility = self._utility(logits[: _size(batch["retain"])], batch["retain"])
        return {"retain": utility, "information": self.gamma * self.term(information, batch)}

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return logits (retain rows then forget rows, classes), in fp32, from one forward pass."""
        with eval_mode(model):
            return classify(model, joint_inputs(batch)).float()

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the sums of the softmax outputs of retain and forget rows, (2, C + 1); if `conditional`, (classes, 2, C + 1)."""
        side = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        side[_size(batch["retain"]) :] = 1
        probabilities = logits.log_softmax(-1).exp()
        labels = torch.cat([batch[s]["labels"] for s in ("retain", "forget")]) if self.conditional else None
        return class_sums(probabilities, side, 2, labels)

    def _information(self, total: Tensor) -> Tensor:
        """Return Î of pooled sums, in nats; with `normalise`, over its greatest value."""
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

"""COLA: retained classes draw together in the features until the forgotten one has no place of its own, and the outputs follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.base import StartingPoint
from ..models.forward import eval_mode, model_inputs
from ..models.prediction import logits_and_features
from ..models.reference import Reference
from ..utils.argument_checks import check_positive
from ..utils.distributed import rows_together
from .base import Paper, setting
from .baseline import Baseline
from .components.losses import cross_entropy, joint_inputs
from .components.pooled_sums import over_share
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class COLA(Baseline):
    """Collapse and align (Jeon et al., arXiv 2405.17878): train the features by retain rows alone, and then the whole network.

    z is what the last layer reads, over its length, P(i) the other rows of a batch with the label of row i, τ a temperature:

        collapse:  min_θ  mean_i mean_{p ∈ P(i)} −log exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ)
        align:     min_θ  E_{D_r} CE(f_θ(x), y)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs and labels for single rows; not read for a class | inputs, labels | 2 while collapsing, then 1 | none |

    For single rows the forget rows take part in the collapse, each with the class that the original finds second best. The loss is
    over pairs, so it is that of the whole step: features are read once without gradient, over all micro-batches and processes, and
    each row then has the gradient of the whole (gradient caching, arXiv 2101.06983). While collapsing, dropout is off. What the
    paper counts in epochs is here a share of the steps.

    Use it as a baseline that changes features. Do not use it where a batch seldom holds two rows of a class.

    Example:
        ```python
        UnlearningTrainer(model=model, args=args, method=COLA(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "cola"
    paper: ClassVar[Paper | None] = Paper(
        "An Information Theoretic Evaluation Metric For Strong Unlearning", "2405.17878"
    )
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"collapse": (0.2, 0.8)}
    arguments: ClassVar[Mapping[str, Any]] = {
        **Baseline.arguments,
        "per_device_train_batch_size": 8,
    }

    collapse: float = setting(0.5, "Share of the steps that collapse, the first ones, in (0, 1).")
    temperature: float = setting(0.1, "Temperature τ of the contrastive loss.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")
        if not 0 < self.collapse < 1:
            raise ValueError(f"`collapse` is a share of the steps, in (0, 1), got {self.collapse}.")

    def begin(self, run: UnlearningRun, start: StartingPoint | None) -> None:
        reference = run.reference
        self._second: Tensor | None = None
        if not reference.forgotten_classes:
            known = reference.predictions if reference.labels is None else reference.labels
            self._second = reference.logits.scatter(1, known[:, None], -torch.inf).argmax(-1)

    @property
    def collapsing(self) -> bool:
        """True if the present step is one of the first, which train the features."""
        return self._steps <= self.collapse * self._all_steps

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        super().before_step(model, batches)
        if not self.collapsing:
            return
        with torch.no_grad():
            parts = [self._features(model, batch) for batch in batches]
        # Batches of padding rows, whose share is 0, have no part in the loss.
        counts = [len(z) if batch.get("share", 1.0) else 0 for (z, _, _), batch in zip(parts, batches, strict=True)]
        own, labels = (torch.cat([part[which][:n] for part, n in zip(parts, counts, strict=True)]) for which in (0, 1))
        rows, first = rows_together(own)
        with torch.enable_grad():
            value = contrastive(rows.requires_grad_(), rows_together(labels)[0], self.temperature)
            (gradient,) = torch.autograd.grad(value, rows)
        self._value = value.detach()
        self._gradients = list(gradient[first : first + len(own)].split(counts))

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        if not self.collapsing:
            return {"retain": cross_entropy(model, batch["retain"], "train")}
        features, _, logits = self._features(model, batch)
        gradient = self._gradients.pop(0)
        # A product with the gradient of the whole loss has that gradient. The last layer has none, and is told so.
        moved = (features[: len(gradient)] * gradient).sum() + 0.0 * logits.sum()
        return {"collapse": self._value + over_share(moved - moved.detach(), batch.get("share", 1.0))}

    def _features(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the last layer reads (B, d), fp32, the labels (B,) by which rows draw together, and the logits."""
        labels = batch["retain"]["labels"]
        if self._second is not None:
            labels = torch.cat([labels, self._second[batch["index"].cpu()].to(labels.device)])
        with eval_mode(model):
            inputs = model_inputs(batch["retain"]) if self._second is None else joint_inputs(batch)
            logits, features = logits_and_features(model, inputs)
        return features.float(), labels, logits


def contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss of features (B, d) with labels (B,), in nats (arXiv 2004.11362, equation 2).

    Rows without another of their class do not count; 0 if there are no others.
    """
    z = F.normalize(features, dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(-1).masked_fill(itself, 0.0)
    pairs = (labels[:, None] == labels) & ~itself
    counts = pairs.sum(-1)
    found = counts > 0
    return -((log_p * pairs).sum(-1)[found] / counts[found]).sum() / found.sum().clamp_min(1)

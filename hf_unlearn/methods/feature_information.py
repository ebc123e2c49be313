"""Feature unlearning: the output becomes independent of an attribute of the input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.functional.information import conditional_information, group_information
from ..models.reference import Reference
from ..utils.argument_checks import check_positive
from .base import ALL_WEIGHTS, setting
from .components.pooled_sums import class_sums, means
from .pooled_information import PooledInformation
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class FeatureInformation(PooledInformation):
    """Train with a penalty on the information between the output and an attribute z (IT-reg for features, Xu and Strohmer).

    With p̄_k the mean softmax over the rows of group k, π_k its share, and p̄ the mean over all groups, minimize

        CE(x, y) + λ Î(Ŷ; Z),    Î = H(p̄) − Σ_k π_k H(p̄_k);    `conditional`:  λ Σ_y π_y Î(Ŷ; Z | Y=y)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | not read | inputs, labels, a column of groups | 1; 1 more for each of several micro-batches | none |

    Both are derived from the paper's objective sup U(Y; Ŷ) − λ I(Ŷ; Z) (arXiv 2502.05684) [derived]. The conditional form asks
    for equal odds in every group, so the output may keep what the label itself says about the group. It is the default,
    because under a bias attribute and label go together. The softmax has a `temperature` above 1 [ours]: a confident network
    answers its training rows alike in all groups, while its logits, and new rows, still differ. Batches are stratified by
    label and group. Î is that of the global batch and of past steps (`memory`), because a batch has few rows of a rare group.

    Use it against a bias that the training data shows and a column names. Do not use it for forgetting rows, or if no column
    names the attribute. `WassersteinBarycenter` needs no training.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"),
                                    method=FeatureInformation(attribute="colour"), retain_dataset=train)
        ```
    """

    name: ClassVar[str] = "feature_information"
    needs_forget: ClassVar[bool] = False
    needs_column: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = {
        **ALL_WEIGHTS,
        "learning_rate": 1e-3,
        "num_train_epochs": 3.0,
        "check_steps": 100,
        "per_device_train_batch_size": 128,
    }

    attribute: str | None = setting(None, "Column of the retain set whose values are the groups z, such as `gender`.")
    weight: float = setting(50.0, "Weight λ of the information, which is in nats.")
    conditional: bool = setting(True, "Measure within each class (equalized odds). If off, over all (parity).")
    balance: float = setting(0.0, "Groups weigh n^(1 − balance): 0 is as in the data, at 1 rare ones weigh as much.")
    temperature: float = setting(3.0, "Temperature of the softmax. Above 1, confident outputs still show the group.")
    memory: float = setting(0.9, "Weight of past steps in the mean outputs, in [0, 1). 0 means none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight > 0:
            raise ValueError(f"`weight` must be positive, got {self.weight}: without it this is ordinary training.")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"`balance` must lie in [0, 1], got {self.balance}.")
        check_positive(self, "temperature")

    def setup(self, run: UnlearningRun) -> None:
        super().setup(run)
        self._groups = len(run.group_names)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        mean, count = means(self.pooled(logits, batch))
        if self.balance:
            weight = torch.where(count > 0, count.detach().clamp_min(1e-12) ** (1 - self.balance), 0.0)
            count = weight * count.sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1e-12)
        information = conditional_information(mean, count) if self.conditional else group_information(mean, count)
        return {
            "retain": F.cross_entropy(logits, batch["retain"]["labels"]),
            "information": self.weight * self.term(information, batch),
        }

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the sums of the softmax outputs by group, (K, C + 1); if `conditional`, by label and group, (C, K, C + 1)."""
        probabilities = (logits / self.temperature).log_softmax(-1).exp()
        labels = batch["retain"]["labels"] if self.conditional else None
        return class_sums(probabilities, batch["group"], self._groups, labels)

"""Feature unlearning: the output tells nothing about an attribute of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.functional.information import conditional_information, group_information
from ..models.forward import classify, eval_mode, model_inputs
from ..models.reference import Reference
from .base import setting
from .components.pooled_sums import class_sums, means
from .pooled_information import PooledInformation
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class FeatureInformation(PooledInformation):
    """Feature unlearning of IT-reg (Xu and Strohmer, "Machine Unlearning via Information Theoretic Regularization", arXiv 2502.05684).

    Needs labelled training data, as `retain_dataset`, with a column `attribute` whose values are the groups z; no forget set.
    With p̄_k the mean softmax over the samples of group k and π_k its share, minimise [derived from the paper's objective
    sup U(Y; Ŷ) − λ I(Ŷ; Z)]

        CE(x, y) + λ Î(Ŷ; Z),    Î = H(p̄) − Σ_k π_k H(p̄_k)

    or, `conditional`, λ Σ_y π_y Î(Ŷ; Z | Y=y): equal odds in every group, which leaves to the output what the label itself
    tells about the group. Where attribute and label go together, as a bias does, that is the form to use, and the default.
    The softmax is taken at a `temperature` above 1 [ours]: a confident network answers its training rows alike in all groups
    while its logits still tell them apart, and new rows show it. Batches are stratified by label and group; Î is that of the global batch and of the decayed past (`memory`), because a
    batch holds few samples of a rare group.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"),
                                    method=FeatureInformation(attribute="colour"), retain_dataset=train)
        ```
    """

    name: ClassVar[str] = "feature_information"
    needs_forget: ClassVar[bool] = False
    needs_column: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "update": "all",
            "trust_region": 0.0,
            "learning_rate": 1e-3,
            "num_train_epochs": 3.0,
            "max_steps": -1,
            "check_steps": 100,
            "per_device_train_batch_size": 128,
        }
    )

    attribute: str | None = setting(None, "Column whose values are the groups z, such as `gender`.")
    weight: float = setting(50.0, "Weight λ of the information, in nats.")
    conditional: bool = setting(True, "Information given the label (equalised odds); off: whatever the label (parity).")
    balance: float = setting(
        0.0, "Shares of the groups ∝ n^(1 − balance): 0 as in the data, 1 all alike, so that rare groups count as much."
    )
    temperature: float = setting(
        3.0, "Of the softmax whose information is measured; above 1, confident outputs still tell."
    )
    memory: float = setting(0.9, "Share of past steps in the mean outputs, in [0, 1); 0: of this batch alone.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight > 0:
            raise ValueError(f"`weight` must be positive, got {self.weight}: without it this is ordinary training.")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"`balance` must lie in [0, 1], got {self.balance}.")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")

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

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        with eval_mode(model):
            return classify(model, model_inputs(batch["retain"])).float()

    def own_sums(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Sums of softmax outputs by group (K, C + 1), or by label and group (C, K, C + 1)."""
        probabilities, cells = (logits / self.temperature).log_softmax(-1).exp(), batch["group"]
        classes = logits.shape[-1]
        if not self.conditional:
            return class_sums(probabilities, cells, self._groups)
        cells = self._groups * batch["retain"]["labels"] + cells
        return class_sums(probabilities, cells, classes * self._groups).view(classes, self._groups, -1)

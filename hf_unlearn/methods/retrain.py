"""Retraining from scratch without the forget set: the yardstick, and what every other method is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from .fine_tune import FineTune
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class Retrain(FineTune):
    """min_θ E_{D_r} CE(f_θ(x), y) from fresh weights: those of the trainer's `model_init`, or of the model's configuration.

    Give it the arguments that the original was trained with; its time is the cost that unlearning avoids.

    Example:
        ```python
        UnlearningTrainer(model_init=lambda: AutoModelForImageClassification.from_config(config), args=args,
                          method=Retrain(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "retrain"
    starts_fresh: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"update": "all", "trust_region": 0.0, "learning_rate": 1e-3, "num_train_epochs": 10.0, "max_steps": -1}
    )

    def setup(self, run: UnlearningRun) -> None:
        run.model.load_state_dict(run.fresh_model().state_dict())

"""Retraining from scratch without the forget set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .base import ALL_WEIGHTS
from .fine_tune import FineTune
from .protocols import UnlearningRun


@dataclass(kw_only=True)
class Retrain(FineTune):
    """Train on the retain set from fresh weights: the model that every other method is compared with.

        min_θ E_{D_r} CE(f_θ(x), y),    θ starting at the trainer's `model_init`, or drawn from the model's configuration

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | not read | inputs, labels | 1 | none |

    Use it for the yardstick of a report, with the arguments that the original was trained with: the time it takes is the cost
    that unlearning avoids. Do not use it on a model that was fine-tuned from a public base, unless `model_init` gives that base.

    Example:
        ```python
        UnlearningTrainer(model_init=lambda: AutoModelForImageClassification.from_config(config), args=args,
                          method=Retrain(), forget_dataset=split.forget, retain_dataset=split.retain)
        ```
    """

    name: ClassVar[str] = "retrain"
    starts_fresh: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = {**ALL_WEIGHTS, "learning_rate": 1e-3, "num_train_epochs": 10.0}

    def setup(self, run: UnlearningRun) -> None:
        run.model.load_state_dict(run.fresh_model().state_dict())

"""`Job`: the loaded parts of a run, which recipes, the demo and benchmarks share."""

from dataclasses import dataclass, field
from typing import Any

import datasets
from torch import nn

from ..data.forget_request import Split
from ..models.base import Base
from ..training.arguments import UnlearningArguments
from ..training.plain_training import warmup_steps
from .run_arguments import RunArguments
from .training_settings import TrainingSettings


@dataclass
class Job:
    """The loaded parts of a run.

    `train` is a data set, or a stream with `streaming`. `split` is None if an attribute is unlearned. `validation` is None unless
    the method reads held-out rows. `base` is what the original was fine-tuned from, None if that is not known or not needed, and
    `adapter` True if the original is an adapter that was trained on it.
    `retrained_with` are the settings of the retrained model, once it was trained, and `retrained_before` the number of retrained
    models that came from the cache. `dropped` are the numbers of the entries that were taken out of the tokenizer.
    """

    run: RunArguments
    args: UnlearningArguments
    train: Any
    test: datasets.Dataset | None
    model: nn.Module
    processing_class: Any
    split: Split | None = None
    validation: datasets.Dataset | None = None
    base: Base | None = None
    adapter: bool = False
    retrained_with: TrainingSettings | None = None
    retrained_before: int = 0
    dropped: list[int] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, Any]:
        return {name: getattr(self.run, name) for name in ("image_column", "text_column", "label_column")}

    def train_arguments(self, settings: TrainingSettings) -> dict[str, Any]:
        """Return fields of `TrainingArguments` with which the original, or the retrained model, is trained."""
        rows = self.train if self.split is None else self.split.retain
        return {
            "num_train_epochs": settings.epochs,
            "learning_rate": settings.learning_rate,
            "per_device_train_batch_size": -(-settings.batch_size // self.args.world_size),
            "lr_scheduler_type": settings.lr_scheduler_type,
            # From a base as transformers trains by default: decay would move embeddings of words that no row holds.
            "weight_decay": 0.01 if self.base is None else 0.0,
            "warmup_steps": warmup_steps(len(rows), settings.batch_size, settings.epochs),
            **{name: getattr(self.args, name) for name in ("use_cpu", "disable_tqdm", "dataloader_pin_memory")},
        }

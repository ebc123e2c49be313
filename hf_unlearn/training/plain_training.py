"""Ordinary training of a classifier, for recipes and demos that have no trained model to start from."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainingArguments

from ..data.pairs import PreparedRows
from ..models.forward import lone_values_normalized
from ..models.processor import Processor
from ..models.snapshot import fingerprints
from ..utils.garbage import quick_collection

logger = logging.getLogger(__name__)


def train_classifier(
    model: nn.Module,
    train: Any,
    processor: Processor,
    arguments: Mapping[str, Any],
    output_dir: str | Path,
    name: str = "original",
) -> float:
    """Train `model` in place with the HF Trainer and fields of its `arguments`; return the seconds.

    Warn if nothing changed, and call the model `name`.
    """
    fixed: dict[str, Any] = {"save_strategy": "no", "remove_unused_columns": False, "logging_strategy": "no"}
    # The base class would multiply a mean loss by the number of processes.
    fixed["average_tokens_across_devices"] = False
    args = TrainingArguments(output_dir=str(output_dir), **fixed, **arguments)
    rows = PreparedRows(train, processor, cache_bytes=2**30)
    start, started = fingerprints(model), time.perf_counter()
    with lone_values_normalized(model), quick_collection():
        Trainer(model=model, args=args, data_collator=processor.collate, train_dataset=rows).train()
    seconds = time.perf_counter() - started
    warn_if_untrained(start, model, name)
    return seconds


def warmup_steps(rows: int, batch: int, epochs: float) -> int:
    """Return the number of warm-up steps: a tenth of all steps, and at most 50."""
    return min(50, int(math.ceil(rows / batch) * epochs / 10))


def warn_if_untrained(start: Mapping[str, str], model: nn.Module, name: str) -> None:
    """Warn if no parameter of `model` differs from `start` (its `fingerprints`): the model has learned nothing."""
    now = fingerprints(model)
    if all(start[n] == now[n] for n, _ in model.named_parameters()):
        hint = "Raise `train_learning_rate` or `train_epochs`."
        logger.warning("The %s did not change in its training: it has random weights. %s", name, hint)

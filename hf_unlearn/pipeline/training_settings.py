"""The settings that a model is retrained with: those of the recipe, or those that the Trainer left beside the original."""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..utils.files import read_object
from ..utils.hub_names import file_beside
from .run_arguments import RunArguments

logger = logging.getLogger(__name__)

MORE = (4, 16, 64)  # times the epochs of the first training, if that was too short
MOST_STEPS = 4_000  # of a training that nobody asked for
LONGEST = 1_000  # epochs that a file beside the original may ask for
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
ENTRY = re.compile(r"^\s*[-*]\s*(\w+):\s*(\S+)\s*$", re.MULTILINE)  # `- learning_rate: 2e-05`, in the Trainer's card


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained from fresh weights. `batch_size` counts the rows of a step in all processes together."""

    epochs: float = 10.0
    learning_rate: float = 1e-3
    batch_size: int = 64
    lr_scheduler_type: str = "linear"
    source: str = "defaults"

    def steps(self, rows: int) -> float:
        """Return the number of optimizer steps of a training on `rows`."""
        return math.ceil(rows / self.batch_size) * self.epochs


# The defaults of transformers' `TrainingArguments`, which most models were fine-tuned with.
FINE_TUNING = TrainingSettings(epochs=3.0, learning_rate=5e-5, batch_size=8)
ADAPTER_TUNING = replace(FINE_TUNING, learning_rate=1e-3)  # an adapter starts at zero


def given_settings(run: RunArguments, base: TrainingSettings | None = None) -> TrainingSettings:
    """Return `base`, by default the defaults, with what the recipe names in its place."""
    names = {"epochs": "train_epochs", "learning_rate": "train_learning_rate", "batch_size": "train_batch_size"}
    given = {field: getattr(run, name) for field, name in names.items() if getattr(run, name) is not None}
    recorded, base = base is not None, base or TrainingSettings()
    return replace(base, **given, source=base.source if recorded else "recipe") if given else base


def is_guess(run: RunArguments) -> bool:
    """Return True if nobody said how long to train: the recipe names no epochs, and it does not train the original either."""
    return run.model_config is None and run.train_epochs is None


def trainings(
    run: RunArguments, rows: int, retained: int, from_base: bool = False, adapter: bool = False
) -> list[TrainingSettings]:
    """Return the trainings to try one after another until the retrained model fits its rows.

    A recipe that names the epochs, or that also trains the original, is followed. Otherwise the length of the training is a
    guess, even if it stands beside the original, which may have started from a trained base: longer trainings follow.

    Args:
        rows: number of rows that the original was trained on.
        retained: number of rows to retrain on.
        from_base: True if the training starts from a pretrained base, where a high learning rate would undo what it knows.
        adapter: True if an adapter over the base is trained, which takes a higher learning rate. Default False.
    """
    if run.model_config is not None:
        return [given_settings(run)]
    usual = ADAPTER_TUNING if adapter else FINE_TUNING if from_base else None
    first = given_settings(run, recorded_settings(run, rows, usual) or usual)
    if not is_guess(run):
        return [first]
    keeps_rate = from_base or run.train_learning_rate is not None
    rate = first.learning_rate if keeps_rate else TrainingSettings.learning_rate
    longer = [replace(first, epochs=times * first.epochs, learning_rate=rate, source="search") for times in MORE]
    return [first, *(settings for settings in longer if settings.steps(retained) <= MOST_STEPS)]


def recorded_settings(run: RunArguments, rows: int, usual: TrainingSettings | None = None) -> TrainingSettings | None:
    """Return the settings in the Trainer's card and `trainer_state.json` beside the original, None if neither tells the epochs.

    What they do not tell is as in `usual`, by default the defaults.
    `training_args.bin` would tell all of them, but it is a pickle, which can run code, and is not read.
    """
    found: dict[str, Any] = {}
    for name, read in (("trainer_state.json", _from_state), ("README.md", _from_card)):
        path = file_beside(run.model, name, run.model_revision)
        try:
            told = {} if path is None else read(path)
        except (ValueError, OSError) as error:
            logger.warning("The training of the original is not known: %s", error)
            continue
        found |= dict(_plausible(told)) | ({"source": name} if told else {})
    if "epochs" not in found and {"steps", "batch_size"} <= found.keys():
        found["epochs"] = found["steps"] * found["batch_size"] / rows
    found.pop("steps", None)
    return replace(usual or TrainingSettings(), **found) if 0 < found.get("epochs", 0) <= LONGEST else None


def _from_state(path: Path) -> Mapping[str, Any]:
    state = read_object(path) or {}
    log = state.get("log_history")
    entries = [entry.get("learning_rate") for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    rates = [rate for rate in entries if isinstance(rate, int | float)]
    return {
        "epochs": state.get("num_train_epochs"),
        "batch_size": state.get("train_batch_size"),
        "learning_rate": max(rates, default=None),
    }


def _from_card(path: Path) -> Mapping[str, Any]:
    _, _, part = path.read_text("utf-8", errors="replace").partition("hyperparameters were used")
    entries: dict[str, Any] = dict(ENTRY.findall(part))
    return {
        "epochs": entries.get("num_epochs"),
        "steps": entries.get("training_steps"),
        "batch_size": entries.get("total_train_batch_size", entries.get("train_batch_size")),
        "learning_rate": entries.get("learning_rate"),
        "lr_scheduler_type": entries.get("lr_scheduler_type", "").rpartition(".")[-1].lower(),
    }


def _plausible(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values that a training can have. Files beside a model hold anything."""
    most = {"epochs": LONGEST, "steps": 1e7, "batch_size": 1e5, "learning_rate": 10.0}
    for name, value in told.items():
        if name == "lr_scheduler_type":
            if value in SCHEDULES:
                yield name, value
            continue
        with suppress(TypeError, ValueError):
            number = float(value)
            if name in ("steps", "batch_size") and 1 <= number <= most[name]:
                yield name, int(number)
            elif name in ("epochs", "learning_rate") and 0 < number <= most[name]:
                yield name, number

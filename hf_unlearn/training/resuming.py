"""How a run goes on where it was cut off, and which settings it must have in common with its start."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..models.adapters import configurations
from ..models.pretrained import save_model
from .checkpoints import find_damage, finished_marker, is_inside, last_checkpoint, resumable, seal_checkpoint

logger = logging.getLogger(__name__)


# Arguments that the weights at the end depend on. The number of processes is none, given the rows of all of them.
ARGUMENTS = (
    "update", "trust_region", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args",
    "adam_beta1", "adam_beta2", "adam_epsilon", "momentum", "weight_decay", "max_grad_norm", "bf16", "fp16",
    "max_steps", "num_train_epochs", "batch_rows", "gradient_accumulation_steps", "retain_per_forget", "dataloader_drop_last",
    "weight_average", "check_steps", "probe_size", "forget_kind", "forget_target", "max_retain_drop", "seed",
)  # fmt: skip


def describe_settings(trainer: Any) -> dict[str, Any]:
    """What the weights that a run ends with depend on, JSON-ready."""
    method = trainer.method.describe()
    given = [field.name for field in fields(trainer.method) if field.init]  # the others are measured in the run
    settings = {name: method[name] for name in given} | {name: getattr(trainer.args, name) for name in ARGUMENTS}
    sets = {"forget": trainer.forget_dataset, "retain": trainer.retain_dataset}
    described = {
        "method_name": trainer.method.name or type(trainer.method).__name__,
        "rows": {name: len(rows) if hasattr(rows, "__len__") else None for name, rows in sets.items()},
        "contents": trainer.contents,
        "adapters": configurations(trainer.model),
        "settings": settings,
    }
    return json.loads(json.dumps(described, default=str))


def check_settings(saved: Mapping[str, Any], now: Mapping[str, Any], ended: bool = False) -> None:
    """Compare the settings of a run with those that it is resumed with: rows, method and adapters must be the same.

    Of a run that has ended everything must: it goes on with its report, which tells of the settings.

    Raises:
        ValueError: they are not.
    """
    for key, what in (("rows", "numbers of rows"), ("method_name", "the method"), ("adapters", "the adapters")):
        if saved.get(key, now[key]) != now[key]:
            raise ValueError(
                f"`resume_from_checkpoint`: the run began with {what} {saved[key]}, and now {now[key]} is given, so what it "
                "has done and what it reports would not belong together. Resume with the same, or start anew."
            )
    if saved.get("contents", now["contents"]) != now["contents"]:
        raise ValueError(
            "`resume_from_checkpoint`: the run began with other rows to forget or to keep, as many of them as now, so what it has "
            "done and what it reports would not belong together. Resume with the same request and data, or start anew."
        )
    old, new = saved["settings"], now["settings"]
    differ = [n for n in new if n in old and old[n] != new[n]]
    other = ", ".join(f"{n} ({old[n]} → {new[n]})" for n in differ)
    if ended and {*differ} - {"batch_rows"}:  # which other numbers of processes may not divide
        raise ValueError(
            f"`resume_from_checkpoint`: the run has ended, with other settings than are given now: {other}. Resume with the same, "
            "name the checkpoint to go on from, or start anew."
        )
    if other:
        told = "Resumed with other settings than the run began with: %s. The optimiser goes on with its own, such as its rate."
        logger.warning(told, other)


def train_or_resume(trainer: Any, resume: bool) -> None:
    """Train; with `resume`, from where a run in the same folder was cut off, and from the beginning where it left nothing.

    So that one command can be given again and again, to a queue that may end it at any time. A checkpoint that the arguments
    name (`resume_from_checkpoint`) comes first.

    Raises:
        ValueError: what it left is damaged, and not to be overwritten.
    """
    folder, place = trainer.args.output_dir, trainer.args.resume_from_checkpoint
    trainer.contents  # noqa: B018 - data that cannot be read should end a run before it has begun
    if resume and isinstance(place, str) and not is_inside(Path(place), folder) and resumable(folder):
        place = None  # what began elsewhere has come further here
    if place is None and resume and not resumable(folder):
        if trainer.is_world_process_zero():
            print(f"Nothing to resume from in {folder} yet: starting from the beginning.", flush=True)
    elif place is None and resume:
        try:
            place = last_checkpoint(folder)
        except ValueError:
            if not trainer.args.overwrite:
                raise
    trainer.train(resume_from_checkpoint=place)


def save_finished(trainer: Any, processing_class: Any, folder: str | Path) -> None:
    """Save the model that a run ended with, so that a resumed run goes straight to what comes after it.

    The claim that it is finished is written first and holds only for these very files, which then appear in one go.
    """
    folder = Path(folder)
    record = finished_marker(folder)
    if record.is_file() and not find_damage(folder):
        return  # resumed from it

    def sealed(model: nn.Module, partial: Path) -> None:
        trainer.method.save(model, partial)
        end = {"ended": True, "model_only": False, "trainer": asdict(trainer.state)}
        seal_checkpoint(partial, {**trainer.checkpoint_state(), **end}, record)

    save_model(trainer.model, processing_class, folder, sealed)

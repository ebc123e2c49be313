"""How a run is resumed, and which settings it must share with its start."""

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..models.adapters import configurations
from ..models.pretrained import save_model
from .checkpoints import find_damage, finished_marker, is_inside, last_checkpoint, resumable, seal_checkpoint

logger = logging.getLogger(__name__)

# Arguments that the final weights depend on. The number of processes is not one of them: `batch_rows` counts all rows.
ARGUMENTS = (
    "update", "trust_region", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args",
    "adam_beta1", "adam_beta2", "adam_epsilon", "momentum", "weight_decay", "max_grad_norm", "bf16", "fp16",
    "max_steps", "num_train_epochs", "batch_rows", "gradient_accumulation_steps", "retain_per_forget", "dataloader_drop_last",
    "weight_average", "check_steps", "probe_size", "forget_kind", "forget_target", "max_retain_drop", "max_halvings", "seed",
)  # fmt: skip


def describe_settings(trainer: Any) -> dict[str, Any]:
    """Return all that the final weights of a run depend on, JSON-ready."""
    method = trainer.method.describe()
    given = [field.name for field in fields(trainer.method) if field.init]  # other fields are measured in the run
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
    """Raise ValueError if rows, method or adapters are not those that the `saved` run began with. Warn of other settings.

    A run that has `ended` must have the same settings too, because only its report is left to do, which names them.
    """
    for key, what in (("rows", "numbers of rows"), ("method_name", "the method"), ("adapters", "the adapters")):
        if saved.get(key, now[key]) != now[key]:
            raise ValueError(
                f"`resume_from_checkpoint`: the run began with {what} {saved[key]}, and now {now[key]} is given. Resume with the "
                "same, or start anew in another folder."
            )
    if saved.get("contents", now["contents"]) != now["contents"]:
        raise ValueError(
            "`resume_from_checkpoint`: the run began with other rows to forget or to keep, as many of them as now. Resume with "
            "the same request and data, or start anew in another folder."
        )
    old, new = saved["settings"], now["settings"]
    differ = [n for n in new if n in old and old[n] != new[n]]
    other = ", ".join(f"{n} ({old[n]} → {new[n]})" for n in differ)
    if ended and {*differ} - {"batch_rows"}:  # another number of processes may round it differently
        raise ValueError(
            f"`resume_from_checkpoint`: the run has ended, with other settings than those given now: {other}. Resume with the "
            "same settings, name a checkpoint to resume from, or start anew."
        )
    if other:
        logger.warning(
            "Resumed with other settings than at the start: %s. The optimizer keeps its saved settings.", other
        )


def train_or_resume(trainer: Any, resume: bool) -> None:
    """Train. With `resume`, continue the run in the output folder, or start from the beginning if there is none.

    One command can therefore be repeated, for example by a queue that may end it at any time. A checkpoint that the
    arguments name (`resume_from_checkpoint`) has priority. Raise ValueError if the run is damaged and `overwrite` is False.
    """
    folder, place = trainer.args.output_dir, trainer.args.resume_from_checkpoint
    trainer.contents  # noqa: B018 - unreadable data ends the run before it begins
    if resume and isinstance(place, str) and not is_inside(Path(place), folder) and resumable(folder):
        place = None  # a run that began elsewhere has come further here
    if place is None and resume and resumable(folder):
        with suppress(ValueError) if trainer.args.overwrite else nullcontext():
            place = last_checkpoint(folder)
    elif place is None and resume and trainer.is_world_process_zero():
        print(f"Nothing to resume from in {folder} yet: starting from the beginning.", flush=True)
    trainer.train(resume_from_checkpoint=place)


def save_finished(trainer: Any, processing_class: Any, folder: str | Path) -> None:
    """Save the final model of a run, so that a resumed run continues with the steps after training.

    The marker that the run is finished is written first. It holds only for these files, which then appear in one step.
    """
    folder = Path(folder)
    marker = finished_marker(folder)
    if marker.is_file() and not find_damage(folder):
        return  # the run was resumed from this model

    def sealed(model: nn.Module, partial: Path) -> None:
        trainer.method.save(model, partial)
        end = {"ended": True, "model_only": False, "trainer": asdict(trainer.state)}
        seal_checkpoint(partial, {**trainer.checkpoint_state(), **end}, marker)

    save_model(trainer.model, processing_class, folder, sealed)

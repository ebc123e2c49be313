"""How a run is saved and gone on with: the part of the trainer between Hugging Face's and `checkpoints`."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import (
    ASIDE,
    claim_of,
    find_damage,
    is_checkpoint,
    is_inside,
    last_checkpoint,
    publish,
    resumable,
    seal,
)
from .data.overlap import fingerprint
from .models.adapters import configurations
from .models.sharding import whole_state
from .models.snapshot import joint_digest
from .utils.files import clear_errors

if TYPE_CHECKING:
    from .control import ForgettingControl
    from .methods import UnlearningMethod
    from .outcome import Outcome

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


class CheckpointedTrainer(Trainer):
    """The HF Trainer, whose checkpoints appear whole and sealed, or not at all, and hold what unlearning goes on from."""

    method: UnlearningMethod
    forgetting: ForgettingControl
    outcome: Outcome | None = None
    original_fingerprints: dict[str, str]
    interrupted = 0  # the number of the signal that asked the run to end
    seconds = 0.0
    shards = False  # whether the base class shards the model over processes while it trains
    _started = 0.0
    _aside = False  # whether a checkpoint is being written
    resumed_from: Path | None = None  # the checkpoint that the run goes on from

    @cached_property
    def contents(self) -> dict[str, str | None]:
        """A digest of the rows of each set: requests of the same size must not be taken for each other."""
        return {"forget": fingerprint(self.forget_dataset), "retain": fingerprint(self.retain_dataset)}

    def checkpoint_state(self) -> dict[str, Any]:
        """What a resumed run needs beside tensors and what the base class saves, JSON-ready."""
        return {
            **describe_settings(self),
            **self.forgetting.state(),
            "method": self.method.state(),
            "seconds": time.perf_counter() - self._started if self.outcome is None else self.seconds,
            "original": joint_digest(self.original_fingerprints),
            "model_only": self.args.save_only_model,
        }

    def _checkpoint_size(self) -> int:
        """Bytes that a checkpoint takes, about."""
        states = () if self.optimizer is None or self.args.save_only_model else self.optimizer.state.values()
        held = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
        return sum(t.nbytes for t in [*self.model.state_dict().values(), *held]) + self.forgetting.size()

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / ASIDE) if self._aside else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, step = Path(self._get_output_dir(trial)), self.state.global_step
        place, staged = (p / f"{PREFIX_CHECKPOINT_DIR}-{step}" for p in (folder, folder / ASIDE))
        with clear_errors(place.name, folder, self._checkpoint_size()):
            try:
                if self.args.should_save:
                    shutil.rmtree(folder / ASIDE, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                self._aside = True
                super()._save_checkpoint(model, trial)
                self._aside = False
                if self.state.best_global_step == step:  # the base class has looked for it aside
                    self.state.best_model_checkpoint = str(place)
                self.accelerator.wait_for_everyone()  # the random numbers of every process are in it
                self.forgetting.save(staged)
                weights = whole_state(self.model) if self.shards else None  # none but a run like this one reads parts
                if self.args.should_save:
                    if weights is not None:
                        self._save(str(staged), weights)
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    self.method.save_checkpoint(staged)
                    seal(staged, self.checkpoint_state())
                    publish(staged, place, self.args.save_total_limit, self.state.best_model_checkpoint)
            finally:
                self._aside = False
                if self.args.should_save:
                    shutil.rmtree(folder / ASIDE, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """With `save_strategy="best"` it decides what is saved; a run that is asked to end must be."""
        return super()._determine_best_metric(metrics, trial) or bool(self.interrupted)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """In training, of what the run would end with."""
        with self.forgetting.with_average():
            return super()._evaluate(*args, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        out = super()._init_training_state(*args, **kwargs)
        self._find_best()
        return out

    def _load_callback_state(self) -> None:
        """Into the callbacks that are there: the base class makes new ones, behind those that watch over the run."""
        held = self.state.stateful_callbacks if self.args.restore_callback_states_from_checkpoint else {}
        for name, states in held.items():
            own = [c for c in self.callback_handler.callbacks if type(c).__name__ == name]
            # Of several of one type the base class appends what they say, save after save.
            latest = (states if isinstance(states, list) else [states])[-len(own) :]
            for callback, saved in zip(own, latest, strict=False):
                for attribute, value in saved.get("attributes", {}).items():
                    setattr(callback, attribute, value)

    def _find_best(self) -> None:
        """The best checkpoint is beside the one that the run goes on from, wherever these were moved to since."""
        folder = Path(self.args.output_dir) if self.resumed_from is None else self.resumed_from.parent
        best = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _go_to_end(self, folder: Path, saved: Mapping[str, Any]) -> bool:
        """Load the weights that a run ended with, if it had: one more step would go past them."""
        held = is_checkpoint(folder)
        state = TrainerState.load_from_json(folder / TRAINER_STATE_NAME) if held else TrainerState(**saved["trainer"])
        ended = saved["ended"]
        if held and ended and not self.forgetting.stopped and state.global_step >= state.max_steps:
            *_, steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
            ended = steps <= state.global_step  # more may be asked for now
        if not ended:
            return False
        self.state = state
        self._find_best()
        self._load_from_checkpoint(str(folder))
        if held and self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        elif held:
            self.forgetting.end_with_average(folder, saved["averaged"])
        return True


def go_on(trainer: Any, resume: bool) -> None:
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


def keep_finished(trainer: Any, processing_class: Any, folder: str | Path) -> None:
    """Save the model that a run ended with, so that a resumed run goes straight to what comes after it.

    The claim that it is finished is written first and holds only for these very files, which then appear in one go.
    """
    from .models.pretrained import save_model

    folder = Path(folder)
    record = claim_of(folder)
    if record.is_file() and not find_damage(folder):
        return  # resumed from it

    def sealed(model: nn.Module, partial: Path) -> None:
        trainer.method.save(model, partial)
        end = {"ended": True, "model_only": False, "trainer": asdict(trainer.state)}
        seal(partial, {**trainer.checkpoint_state(), **end}, record)

    save_model(trainer.model, processing_class, folder, sealed)

"""The part of the trainer that saves and resumes a run, between the HF Trainer and `checkpoints`."""

import logging
import shutil
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.overlap import fingerprint
from ..methods import UnlearningMethod
from ..models.adapters import is_adapted, load_adapters
from ..models.forward import unwrap
from ..models.sharding import whole_state
from ..models.snapshot import joint_digest
from ..utils.files import clear_errors
from .checkpoints import STAGING, check_best, is_checkpoint, publish, read_state, seal_checkpoint
from .monitor import Monitor
from .outcome import Outcome
from .resuming import describe_settings
from .stopping import ForgettingControl

logger = logging.getLogger(__name__)


class CheckpointedTrainer(Trainer):
    """The HF Trainer with checkpoints that are whole or absent, and that hold the state of unlearning too."""

    method: UnlearningMethod
    forgetting: ForgettingControl
    monitor: Monitor
    original_fingerprints: dict[str, str]
    outcome: Outcome | None = None
    interrupted = 0  # number of the signal that asked the run to end
    resumed_from: Path | None = None  # the checkpoint that the run resumes from
    seconds = 0.0  # duration of the run, in all its parts
    shards = False  # True if the base class shards the model over processes in training
    started = 0.0  # when the run began, on the clock of `time.perf_counter`
    _staging = False  # True while a checkpoint is being written

    @cached_property
    def contents(self) -> dict[str, str | None]:
        """A digest of the rows of each set, which tells requests of the same size apart."""
        return {"forget": fingerprint(self.forget_dataset), "retain": fingerprint(self.retain_dataset)}

    def checkpoint_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside tensors and the state of the base class, JSON-ready."""
        return {
            **describe_settings(self),
            **self.forgetting.state(),
            "method": self.method.state(),
            "seconds": time.perf_counter() - self.started if self.outcome is None else self.seconds,
            "original": joint_digest(self.original_fingerprints),
            "model_only": self.args.save_only_model,
        }

    def _checkpoint_size(self) -> int:
        """Estimate the bytes of a checkpoint."""
        states = () if self.optimizer is None or self.args.save_only_model else self.optimizer.state.values()
        held = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
        return sum(t.nbytes for t in [*self.model.state_dict().values(), *held]) + self.forgetting.size()

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, step = Path(self._get_output_dir(trial)), self.state.global_step
        place, staged = (p / f"{PREFIX_CHECKPOINT_DIR}-{step}" for p in (folder, folder / STAGING))
        with clear_errors(place.name, folder, self._checkpoint_size()):
            try:
                if self.args.should_save:
                    shutil.rmtree(folder / STAGING, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                self._staging = True
                super()._save_checkpoint(model, trial)
                self._staging = False
                if self.state.best_global_step == step:  # the base class saw it in the staging folder
                    self.state.best_model_checkpoint = str(place)
                self.accelerator.wait_for_everyone()  # every process has written its random state
                self.forgetting.save(staged)
                # Other runs cannot read sharded weights: save whole ones beside them.
                weights = whole_state(self.model) if self.shards else None
                if self.args.should_save:
                    if weights is not None:
                        self._save(str(staged), weights)
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    self.method.save_checkpoint(staged)
                    seal_checkpoint(staged, self.checkpoint_state())
                    publish(staged, place, self.args.save_total_limit, self.state.best_model_checkpoint)
            finally:
                self._staging = False
                if self.args.should_save:
                    shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # an unused pickle that holds the user's token
        self.method.save(unwrap(self.model), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load through `from_pretrained`, strictly: the base class restores wrong weights for ViT-like models."""
        target = self.model if model is None else model
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif is_adapted(target):
            load_adapters(target, resume_from_checkpoint)
        else:
            model_class: Any = type(target)
            target.load_state_dict(model_class.from_pretrained(resume_from_checkpoint).state_dict(), strict=True)
        self.monitor.model_changed()

    def _load_best_model(self) -> None:
        best = check_best(self.state.best_model_checkpoint)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(best))
        self.forgetting.end_with_average(best, read_state(best)["averaged"])
        self.monitor.model_changed()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Also save a run that was asked to end: with `save_strategy="best"`, this result decides what is saved."""
        try:
            return super()._determine_best_metric(metrics, trial) or bool(self.interrupted)
        except KeyError as error:
            raise ValueError(
                f"`metric_for_best_model={self.args.metric_for_best_model!r}` is not among the measures of an evaluation: "
                f"{', '.join(metrics)}. Choose one of these, or pass `compute_metrics`."
            ) from error

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the averaged weights, because the run ends with those."""
        with self.forgetting.with_average():
            return super()._evaluate(*args, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        out = super()._init_training_state(*args, **kwargs)
        self._find_best()
        return out

    def _load_callback_state(self) -> None:
        """Load the state into the present callbacks: the base class would add new ones after `ForgettingControl`."""
        held = self.state.stateful_callbacks if self.args.restore_callback_states_from_checkpoint else {}
        for name, states in held.items():
            own = [c for c in self.callback_handler.callbacks if type(c).__name__ == name]
            # The base class appends the states of callbacks of one type at every save: the last ones are current.
            latest = (states if isinstance(states, list) else [states])[-len(own) :]
            for callback, saved in zip(own, latest, strict=False):
                for attribute, value in saved.get("attributes", {}).items():
                    setattr(callback, attribute, value)

    def _find_best(self) -> None:
        """Find the best checkpoint beside the one that the run resumes from: both may have been moved."""
        folder = Path(self.args.output_dir) if self.resumed_from is None else self.resumed_from.parent
        best = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _load_end(self, folder: Path, saved: Mapping[str, Any]) -> bool:
        """Load the final weights if the run had ended, and return True: it must take no further step."""
        held = is_checkpoint(folder)
        state = TrainerState.load_from_json(folder / TRAINER_STATE_NAME) if held else TrainerState(**saved["trainer"])
        ended = saved["ended"]
        if held and ended and not self.forgetting.stopped and state.global_step >= state.max_steps:
            *_, steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
            ended = steps <= state.global_step  # False if more steps are asked for now
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

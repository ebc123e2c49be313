"""How far a step may go and when to stop: what makes a method work without tuning.

`TrustRegion` bounds a step by the size of what it moves. `ForgettingControl` looks at the model every few steps: it ends the
run when the forget set is at its target, and restores the last good state when the model diverges or the kept data suffers.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..models.forward import unwrap
from ..models.reference import SAMPLES_FLOOR
from ..models.sharding import as_held, local, whole
from ..models.snapshot import Snapshot
from ..utils.distributed import in_any_process
from .protocols import TrainingRun

logger = logging.getLogger(__name__)

LANDING_LOOKS = 6
CONTROL_FILE = "unlearning_control.safetensors"
ONE_PRESS = 1.0  # seconds: a launcher passes on what its processes also get from the terminal


class ForgettingControl(TrainerCallback):
    """Looks every `check_steps`: stop at the target, go back when the model is being ruined.

    With `weight_average` the looks are at an exponential average of the weights, and that is what the run ends with: single
    weights jump about where a target lies close to the start. Its `path` (one entry a look: step, shares remembered and kept;
    in the log `forget_remembered` and `retain_accuracy`), the last good state and the average travel with checkpoints.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.path: list[dict[str, float]] = []
        self.stopped = ""
        self.good: Snapshot | None = None
        self.average: dict[str, Tensor] = {}
        self.averaged = False  # whether the model holds the average, and `average` the weights to step from
        self._rates = 0.0  # of all steps together
        self._ended = False
        self._save_after_epoch = False

    def start(self, saved: Mapping[str, Any] | None = None, checkpoint: Path | None = None) -> None:
        """Before the first step: where the run starts from, and the state to go back to; `saved` in `checkpoint`, if any."""
        saved = saved or {}
        self.path, self.stopped = saved.get("path", []), saved.get("stopped", "")
        self.averaged, self._ended = saved.get("averaged", False), False
        self.good = self.run.original
        if self.run.args.weight_average:  # from where the run starts, which `setup` may have moved
            self.average = {n: p.detach().clone() for n, p in self._moving().items()}
        if checkpoint is not None:
            self._load(checkpoint)
        if not self.path:
            with self.run.original_weights():  # the first look is at the original
                self._look(0)

    def save(self, checkpoint: Path) -> None:
        """Write the state to go back to and the average into `checkpoint`."""
        assert self.good is not None
        average = {f"average.{n}": whole(t).cpu() for n, t in self.average.items()}
        if self.run.args.should_save:
            save_file({**{f"good.{n}": t for n, t in self.good.tensors.items()}, **average}, checkpoint / CONTROL_FILE)

    def state(self) -> dict[str, Any]:
        """All but the tensors, JSON-ready; `ended` says that the run would take no further step."""
        ended = self._ended or (self.run.control.should_training_stop and not self.run.interrupted)
        return {"path": self.path, "stopped": self.stopped, "averaged": self.averaged, "ended": ended}

    def size(self) -> int:
        """Bytes that `save` writes."""
        assert self.good is not None
        return sum(t.nbytes for tensors in (self.good.tensors, self.average) for t in tensors.values())

    def _load(self, checkpoint: Path) -> None:
        assert self.good is not None
        tensors = load_file(checkpoint / CONTROL_FILE)
        self.good = self.good.holding({n: tensors[f"good.{n}"] for n in self.good.tensors})
        for name, average in self.average.items():
            average.copy_(tensors[f"average.{name}"])

    def _moving(self) -> dict[str, Tensor]:
        return {n: p for n, p in unwrap(self.run.model).named_parameters() if p.requires_grad}

    @torch.no_grad()
    def _swap_average(self) -> None:
        """Exchange weights and average; twice is as before."""
        if self.average:
            for name, parameter in self._moving().items():
                kept = parameter.clone()
                parameter.copy_(self.average[name])
                self.average[name] = kept
            self.averaged = not self.averaged
            self.run.monitor.model_changed()

    @contextmanager
    def with_average(self) -> Iterator[None]:
        """Inside, the model holds the average, which a run ends with, where there is one."""
        swap = bool(self.average) and not self.averaged
        if swap:
            self._swap_average()
        try:
            yield
        finally:
            if swap:
                self._swap_average()

    @torch.no_grad()
    def end_with_average(self, checkpoint: Path | None = None, held: bool = False) -> None:
        """Leave the model with the average: its own, or that in `checkpoint`, whose weights may already be it (`held`)."""
        if checkpoint is not None:
            self.averaged = held
            if self.average and not held:
                tensors = load_file(checkpoint / CONTROL_FILE)
                for name in self.average:
                    self.average[name].copy_(as_held(tensors[f"average.{name}"], self.average[name]))
        if self.average and not self.averaged:
            self._swap_average()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.averaged:  # a run that had ended takes more steps
            self._swap_average()
        # Now the parameters may be in parts.
        self.average = {n: as_held(self.average[n], p) for n, p in self._moving().items() if n in self.average}
        model: Any = unwrap(self.run.model)
        if hasattr(model, "_require_grads_hook"):  # set with gradient checkpointing: only its reentrant form needs it
            model.disable_input_require_grads()
        schedule = getattr(self.run.lr_scheduler, "lr_lambdas", None)
        if schedule:
            self._rates = sum(map(schedule[0], range(state.max_steps))) * self.run.lr_scheduler.base_lrs[0]
        else:
            self._rates = state.max_steps * self.run.optimizer.param_groups[0]["lr"]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # accelerate forgets the epoch of a wrapped sampler when it resumes inside an epoch
        self.run.sampler.epoch = int(state.epoch or 0)
        if state.global_step == 0 and self.path:  # by now every callback has begun
            self._log(self.path[0])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._save_after_epoch:
            control.should_save, self._save_after_epoch = True, False
        elif self.run.interrupted:  # inside an epoch: nothing that the run would not have done there
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.run.interrupted:
            self.end_with_average()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.method.adjust_gradients(self.run.model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rate = self.run.optimizer.param_groups[0]["lr"]
        self.run.method.after_step(self.run.model, rate, rate / self._rates if self._rates else 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.average:
            moving = self._moving()
            with torch.no_grad():
                averages, weights = ([local(t[n]) for n in moving] for t in (self.average, moving))
                torch._foreach_lerp_(averages, weights, 1 - args.weight_average)
        if state.global_step % args.check_steps == 0 or state.global_step >= state.max_steps:
            self._swap_average()
            self._decide(state, control)
            if not control.should_training_stop:
                self._swap_average()  # the run goes on from the weights themselves
        self._ended = control.should_training_stop
        if self._interrupted():
            control.should_save = control.should_training_stop = True
        if control.should_save and args.eval_strategy == "epoch" and float(state.epoch).is_integer():
            # What is saved here would lack the evaluation, and the random numbers drawn in it, that follow.
            control.should_save, self._save_after_epoch = False, True

    def _interrupted(self) -> bool:
        """Whether any process was asked to end: all must stop after the same step."""
        if in_any_process(bool(self.run.interrupted)) and not self.run.interrupted:
            self.run.interrupted = signal.SIGTERM
        return bool(self.run.interrupted)

    def _decide(self, state: Any, control: Any) -> None:
        """Look, and then stop, go back or go on."""
        look = self._look(state.global_step)
        if reason := self._damage(look):
            logger.warning("%s: going back to the last good state.", reason)
            self._go_back(reason, control)
        elif self._overshoots(look):
            self._go_back("enough: one more step would overshoot", control)
        elif self.run.method.ends_at_target() and self._at_target(look):
            if not self.run.reference.forgotten_classes:
                self._land()
            self.stopped, control.should_training_stop = "target reached", True
        elif state.global_step < state.max_steps:
            self.good = Snapshot(self.run.model, self.run.updated)

    def _go_back(self, reason: str, control: Any) -> None:
        """Restore the last good state and end the run."""
        assert self.good is not None
        self.good.restore(self.run.model)
        self.run.monitor.model_changed()
        self.stopped, control.should_training_stop = reason, True

    def _land(self) -> None:
        """Go to the first point at the target on the line from the last good state to this one, by bisection.

        For single samples the target lies close to where a run starts, and between two looks it goes far past it.
        """
        assert self.good is not None
        run, ahead, near, far = self.run, Snapshot(self.run.model, self.run.updated), 0.0, 1.0
        for look in range(LANDING_LOOKS + 1):
            middle = far if look == LANDING_LOOKS else (near + far) / 2
            self.good.mixed(ahead, middle).restore(run.model)
            run.monitor.model_changed()
            if run.monitor.share_remembered() <= run.monitor.target:  # type: ignore[operator]
                far = middle
            else:
                near = middle

    def _look(self, step: int) -> dict[str, float]:
        look: dict[str, float] = {
            "step": step,
            "forget": self.run.monitor.share_remembered(self.run.args.probe_size),
        }
        kept = self.run.monitor.share_kept()
        if kept is not None:
            look["retain"] = kept
        self.path.append(look)
        if step:
            self._log(look)
        return look

    def _log(self, look: Mapping[str, float]) -> None:
        """The look as an entry of the log, where there is one; the step's own entry follows if it was due."""
        if self.run.args.logging_strategy == "no":
            return
        due = self.run.control.should_log
        names = {"forget": "forget_remembered", "retain": "retain_accuracy"}
        self.run.log({name: look[key] for key, name in names.items() if key in look})
        self.run.control.should_log = due

    def _damage(self, look: dict[str, float]) -> str:
        if not math.isfinite(look["forget"]) or not math.isfinite(look.get("retain", 0.0)):
            return "diverged: NaN in the outputs"
        drop = self.path[0].get("retain", 0.0) - look.get("retain", 0.0)
        if self.run.monitor.guards_kept and drop > self.run.args.max_retain_drop:
            return f"kept data suffers: {100 * drop:.1f} points lost"
        return ""

    def _overshoots(self, look: dict[str, float]) -> bool:
        """Single samples whose target is unknown: a retrained model still answers nearly all of them as before."""
        unknown = self.run.monitor.target is None and self.run.args.forget_target is None  # negative: none wanted
        single = unknown and not self.run.reference.forgotten_classes
        return single and self.run.method.stops_at_target and look["forget"] < SAMPLES_FLOOR

    def _at_target(self, look: dict[str, float]) -> bool:
        """On the probe, within its error, and then on the whole forget set."""
        target, rows = self.run.monitor.target, self.run.args.probe_size
        if target is None or look["forget"] > target + 2 * math.sqrt(target * (1 - target) / rows):
            return False
        return self.run.monitor.share_remembered() <= target


class Interrupted(KeyboardInterrupt):
    """A run that ended early because it was asked to, by the signal number `signum`, and left a checkpoint."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def graceful_interrupt(run: TrainingRun) -> Iterator[None]:
    """The first Ctrl-C, or SIGTERM, lets the step end and saves a checkpoint; another Ctrl-C interrupts at once."""
    run.interrupted, first = 0, 0.0

    def handler(signum: int, frame: Any) -> None:
        nonlocal first
        if not run.interrupted:
            run.interrupted, first = signum, time.monotonic()
            logger.warning("Interrupted: saving a checkpoint after this step. Press Ctrl-C again to stop at once.")
        elif signum == signal.SIGINT and time.monotonic() - first > ONE_PRESS:
            raise KeyboardInterrupt

    try:
        former = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for signum, handled in former.items():
            signal.signal(signum, handled)

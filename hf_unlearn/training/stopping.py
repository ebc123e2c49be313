"""When a run stops: at its target, at damage to retained rows, or when the user interrupts it.

`ForgettingControl` measures the model every few steps. It ends the run when the forget set is at its target. When the model
diverges or the retained rows suffer, it restores the last good state, and the run goes on with steps of half the length.
"""

import copy
import logging
import math
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..models.forward import unwrap
from ..models.reference import SAMPLES_FLOOR
from ..models.sharding import as_held, local, reshard, whole
from ..models.snapshot import Snapshot
from ..utils.distributed import in_any_process
from .optimizers import forget_moments, scale_rates
from .protocols import TrainingRun

logger = logging.getLogger(__name__)

BISECTIONS = 6  # to find the target between two checks
CONTROL_FILE = "unlearning_control.safetensors"
KEPT_SUFFERS = "kept data suffers"
ONE_PRESS = 1.0  # seconds in which two signals are one Ctrl-C: a launcher repeats what the terminal also sends


class ForgettingControl(TrainerCallback):
    """Measures the model every `check_steps` steps, and then stops the run, goes back to the last good state, or goes on.

    With `weight_average` it measures an exponential average of the weights, and the run ends with this average: single
    weights fluctuate too much if the target is close to the start. `path` has one entry for each check: step, share of the
    forget set remembered ("forget", in the log `forget_remembered`) and accuracy on retained rows ("retain", in the log
    `retain_accuracy`). The path, the last good state and the average are saved with checkpoints.

    On damage the run goes back to the last good state, halves all learning rates (with a trust region: the lengths of steps),
    forgets the optimizer's moments, and takes the steps that remain. The entry of that check has `step_scale`, the length of
    the steps from there on, as a share of the length that was asked for. Right afterwards checks come early, 1, 2, 4, … steps
    later. If no step remains, the way from the last good state to the present one is halved instead. After `max_halvings` the
    run gives up and ends with the last good state.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.path: list[dict[str, float]] = []
        self.stopped = ""
        self.halvings = 0  # how often the steps were halved
        self.good: Snapshot  # the last good state, from `start` on
        self.average: dict[str, Tensor] = {}
        self.averaged = False  # True while the model holds the average, and `average` the weights that steps start from
        self._rates = 0.0  # sum of the learning rates of all steps, before any halving
        self._method_state: dict[str, Any] = {}  # of the method in the last good state
        self._went_back = 0  # step of the last halving
        self._begin: Snapshot | None = None  # the state that `setup` made, until a check finds a good one
        self._looks_early = False  # True if the first step is looked at
        self._ended = False
        self._save_after_epoch = False

    def start(self, saved: Mapping[str, Any] | None = None, checkpoint: Path | None = None) -> None:
        """Set the state to go back to, from `checkpoint` and its `saved` state if there are any; make the check at step 0."""
        saved, run = saved or {}, self.run
        if self.halvings and run.optimizer is not None:  # an earlier run of this trainer halved its rates
            scale_rates(run.optimizer, run.lr_scheduler, 1 / self.scale)
        self.halvings, self._went_back = saved.get("halvings", 0), saved.get("went_back", 0)
        self._method_state = saved.get("good_method", copy.deepcopy(run.method.state()))
        self.path, self.stopped = saved.get("path", []), saved.get("stopped", "")
        self.averaged, self._ended = saved.get("averaged", False), False
        assert run.original is not None
        self.good = run.original
        # A start that `setup` moved may lose accuracy, which the steps are to repair.
        begin = Snapshot(run.model, run.updated)
        unmoved = all(self.good.tensors[n].equal(t) for n, t in begin.tensors.items())
        self._begin = None if unmoved or saved.get("was_good") else begin
        self._looks_early = unmoved and self._may_halve() and run.monitor.guards_kept
        if run.args.weight_average:  # the start of the average, which `setup` may have moved
            self.average = {n: p.detach().clone() for n, p in self._moving().items()}
        if checkpoint is not None:
            tensors = load_file(checkpoint / CONTROL_FILE)
            self.good = self.good.holding({n: tensors[f"good.{n}"] for n in self.good.tensors})
            for name, average in self.average.items():
                average.copy_(tensors[f"average.{name}"])
        if not self.path:
            with run.original_weights(), run.monitor.of_original():
                self._check(0)

    @property
    def scale(self) -> float:
        """The length of the present steps, as a share of the length that was asked for."""
        return 0.5**self.halvings

    def save(self, checkpoint: Path) -> None:
        """Write the last good state and the average into `checkpoint`."""
        average = {f"average.{n}": whole(t).cpu() for n, t in self.average.items()}
        if self.run.args.should_save:
            save_file({**{f"good.{n}": t for n, t in self.good.tensors.items()}, **average}, checkpoint / CONTROL_FILE)

    def state(self) -> dict[str, Any]:
        """Return the state without tensors, JSON-ready. `ended` is True if the run would take no further step."""
        ended = self._ended or (self.run.control.should_training_stop and not self.run.interrupted)
        found = {"path": self.path, "stopped": self.stopped, "averaged": self.averaged, "ended": ended}
        found |= {"halvings": self.halvings, "went_back": self._went_back, "was_good": self._begin is None}
        return {**found, "good_method": self._method_state}

    def size(self) -> int:
        """Return the number of bytes that `save` writes."""
        return sum(t.nbytes for tensors in (self.good.tensors, self.average) for t in tensors.values())

    def _moving(self) -> dict[str, Tensor]:
        return {n: p for n, p in unwrap(self.run.model).named_parameters() if p.requires_grad}

    @torch.no_grad()
    def _swap_average(self) -> None:
        """Exchange the weights and the average."""
        if self.average:
            reshard(self.run.model)
            for name, parameter in self._moving().items():
                weights = parameter.clone()
                parameter.copy_(self.average[name])
                self.average[name] = weights
            self.averaged = not self.averaged
            self.run.monitor.model_changed()

    @contextmanager
    def with_average(self) -> Iterator[None]:
        """Inside the context, the model holds the average, if there is one."""
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
        """Give the model the average: its own, or that of `checkpoint`, whose weights are the average if `held`."""
        if checkpoint is not None:
            self.averaged = held
            if self.average and not held:
                tensors = load_file(checkpoint / CONTROL_FILE)
                for name in self.average:
                    self.average[name].copy_(as_held(tensors[f"average.{name}"], self.average[name]))
        if self.average and not self.averaged:
            self._swap_average()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.averaged:  # a finished run takes more steps
            self._swap_average()
        # From here on the parameters may be sharded.
        self.average = {n: as_held(self.average[n], p) for n, p in self._moving().items() if n in self.average}
        model: Any = unwrap(self.run.model)
        if hasattr(model, "_require_grads_hook"):  # only the reentrant form of gradient checkpointing needs this hook
            model.disable_input_require_grads()
        schedule = getattr(self.run.lr_scheduler, "lr_lambdas", None)
        if schedule:
            self._rates = sum(map(schedule[0], range(state.max_steps))) * self.run.lr_scheduler.base_lrs[0]
        else:
            self._rates = state.max_steps * self.run.optimizer.param_groups[0]["lr"]
        self._rates /= self.scale  # a resumed run has halved rates

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # accelerate does not restore the epoch of a wrapped sampler when a run resumes inside an epoch
        self.run.sampler.epoch = int(state.epoch or 0)
        if state.global_step == 0 and self.path:  # only now has every callback seen `on_train_begin`
            self._log(self.path[0])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._save_after_epoch:
            control.should_save, self._save_after_epoch = True, False
        elif self.run.interrupted:  # inside an epoch, where an uninterrupted run does none of these
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
        due, early = self._is_due(state), self._looks_early and state.global_step == 1
        if due or early:
            self._swap_average()
            if due or self._is_damaged():
                self._decide(state, control)
            if not control.should_training_stop:
                self._swap_average()  # the next step starts from the weights
        self._ended = control.should_training_stop
        if self._interrupted():
            control.should_save = control.should_training_stop = True
        if control.should_save and args.eval_strategy == "epoch" and float(state.epoch).is_integer():
            # Save after the evaluation that follows: the checkpoint needs its result and its random draws.
            control.should_save, self._save_after_epoch = False, True

    def _interrupted(self) -> bool:
        """Return True if any process was asked to end: all processes must stop after the same step."""
        if in_any_process(bool(self.run.interrupted)) and not self.run.interrupted:
            self.run.interrupted = signal.SIGTERM
        return bool(self.run.interrupted)

    def _is_due(self, state: Any) -> bool:
        """Return True if the model is to be checked after this step."""
        step, since = state.global_step, state.global_step - self._went_back
        soon = self.halvings > 0 and since.bit_count() == 1  # 1, 2, 4, … steps after damage
        return soon or step % self.run.args.check_steps == 0 or step >= state.max_steps

    def _is_damaged(self) -> bool:
        """Return True if the retained rows suffer. Nothing else is measured or noted, and no random number is moved."""
        with _same_random_numbers():
            return bool(self._damage({"retain": self.run.monitor.share_kept()}))  # type: ignore[dict-item]

    def _may_halve(self) -> bool:
        # DeepSpeed steps on a copy of the weights, which would not go back with them.
        return self.halvings < self.run.args.max_halvings and not self.run.is_deepspeed_enabled

    def _decide(self, state: Any, control: Any) -> None:
        """Check the model, and then stop, go back or go on."""
        found = self._check(state.global_step)
        if reason := self._damage(found):
            if self._may_halve() and state.global_step < state.max_steps:
                self._halve_steps(reason, found)
            # What lies between a start that `setup` moved back and the original still knows the rows.
            elif self._begin is not None or not (self._may_halve() and self._halve_way(reason, found)):
                logger.warning("%s: the run ends with the last good state.", reason)
                self._go_back(reason, control)
        elif self._overshoots(found):
            self._go_back("enough: one more step would overshoot", control)
        elif self.run.method.ends_at_target() and self._at_target(found):
            if not self.run.reference.forgotten_classes:
                self._bisect_to_target()
            self.stopped, control.should_training_stop = "target reached", True
        elif state.global_step < state.max_steps:
            self.good, self._begin = Snapshot(self.run.model, self.run.updated), None
            self._method_state = copy.deepcopy(self.run.method.state())

    @torch.no_grad()
    def _halve_steps(self, reason: str, found: dict[str, float]) -> None:
        """Restore the last good state, from which the run goes on with steps of half the length."""
        run = self.run
        (self._begin or self.good).restore(run.model)
        for name, parameter in self._moving().items() if self.average else ():
            self.average[name].copy_(parameter)  # here it holds the weights that the next step starts from
        run.method.load_state(copy.deepcopy(self._method_state))
        run.monitor.model_changed()
        forget_moments(run.optimizer)
        self._halve_rates(found)
        logger.warning(
            "%s: back to the last good state, on with steps of 1/%d of the length.", reason, 2**self.halvings
        )

    def _halve_rates(self, found: dict[str, float]) -> None:
        """Halve the learning rates, and note this with the check that `found` damage."""
        scale_rates(self.run.optimizer, self.run.lr_scheduler, 0.5)
        self.halvings += 1
        self._went_back, found["step_scale"] = int(found["step"]), self.scale

    def _halve_way(self, reason: str, found: dict[str, float]) -> bool:
        """Halve the way from the last good state to the present one until nothing suffers. Return False if that fails."""
        run, present = self.run, Snapshot(self.run.model, self.run.updated)
        share = 1.0
        while self._may_halve() and reason.startswith(KEPT_SUFFERS):
            share /= 2
            self._halve_rates(found)
            logger.warning(
                "%s: no step is left, so the way from the last good state is cut to 1/%d.", reason, 1 / share
            )
            self.good.mixed(present, share).restore(run.model)
            run.monitor.model_changed()
            found = self._check(int(found["step"]))
            reason = self._damage(found)
        return not reason

    def _go_back(self, reason: str, control: Any) -> None:
        """Restore the last good state and end the run."""
        self.good.restore(self.run.model)
        self.run.monitor.model_changed()
        self.stopped, control.should_training_stop = reason, True

    def _bisect_to_target(self) -> None:
        """Go to the first point at the target on the line from the last good state to the present one.

        The target for single rows is close to the start of a run, and a run goes far beyond it between two checks.
        """
        run, present, near, far = self.run, Snapshot(self.run.model, self.run.updated), 0.0, 1.0
        for i in range(BISECTIONS + 1):
            middle = far if i == BISECTIONS else (near + far) / 2
            self.good.mixed(present, middle).restore(run.model)
            run.monitor.model_changed()
            if run.monitor.share_remembered() <= run.monitor.target:  # type: ignore[operator]
                far = middle
            else:
                near = middle

    def _check(self, step: int) -> dict[str, float]:
        """Measure the model, and add the result to `path` and to the log."""
        found: dict[str, float] = {"step": step, "forget": self.run.monitor.share_remembered(self.run.args.probe_size)}
        if (retained := self.run.monitor.share_kept()) is not None:
            found["retain"] = retained
        self.path.append(found)
        if step:
            self._log(found)
        return found

    def _log(self, found: Mapping[str, float]) -> None:
        """Log a check as an entry of its own. An entry of the step itself that is due follows."""
        if self.run.args.logging_strategy == "no":
            return
        due = self.run.control.should_log
        names = {"forget": "forget_remembered", "retain": "retain_accuracy"}
        self.run.log({name: found[key] for key, name in names.items() if key in found})
        self.run.control.should_log = due

    def _damage(self, found: dict[str, float]) -> str:
        """Say what damage a check found; return "" for none."""
        if not math.isfinite(found.get("forget", 0.0)) or not math.isfinite(found.get("retain", 0.0)):
            return "diverged: NaN in the outputs"
        drop = self.path[0].get("retain", 0.0) - found.get("retain", 0.0)
        if self.run.monitor.guards_kept and drop > self.run.args.max_retain_drop:
            return f"{KEPT_SUFFERS}: {100 * drop:.1f} points lost"
        return ""

    def _overshoots(self, found: dict[str, float]) -> bool:
        """Return True if single rows with an unknown target are forgotten too much: a retrained model knows nearly all."""
        unknown = self.run.monitor.target is None and self.run.args.forget_target is None  # a negative one: none wanted
        single = unknown and not self.run.reference.forgotten_classes
        return single and self.run.method.stops_at_target and found["forget"] < SAMPLES_FLOOR

    def _at_target(self, found: dict[str, float]) -> bool:
        """Return True if the probe is at the target, within two standard errors, and the whole forget set is too."""
        target, rows = self.run.monitor.target, self.run.args.probe_size
        if target is None or found["forget"] > target + 2 * math.sqrt(target * (1 - target) / rows):
            return False
        return self.run.monitor.share_remembered() <= target


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Inside the context, draws do not move the random numbers of the run: rows with a transform of the user may draw."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Interrupted(KeyboardInterrupt):
    """The signal `signum` ended a run, after a checkpoint was written."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def graceful_interrupt(run: TrainingRun) -> Iterator[None]:
    """At the first Ctrl-C or SIGTERM, finish the step and save a checkpoint. At another Ctrl-C, interrupt at once."""
    run.interrupted, first = 0, 0.0

    def handler(signum: int, frame: Any) -> None:
        nonlocal first
        if not run.interrupted:
            run.interrupted, first = signum, time.monotonic()
            logger.warning("Interrupted: a checkpoint is saved after this step. Press Ctrl-C again to stop at once.")
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

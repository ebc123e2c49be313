"""Equal budgets: the settings of every method are looked for with as many trials and passes, on another request than is reported."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..evaluation.comparison.cells import append_line, digest_of, lines_of
from ..methods import UnlearningMethod
from ..training.arguments import UnlearningArguments
from .run_arguments import RunArguments

logger = logging.getLogger(__name__)

TRIALS = "trials.jsonl"
SEED = 0
WORST = 1.0  # Avg. Gap of a trial that fails: no model is farther from retraining
STEP_RANGES = {"rate": (0.01, 0.5), "trust_region": (3e-4, 3e-2), "learning_rate": (1e-6, 1e-3)}
"""Ranges of what decides how long a step is. A method has one of the three."""


@dataclass(frozen=True)
class Budget:
    """What each method may spend: `trials` to find its settings, and `passes` over the retain set in each run."""

    trials: int
    passes: float


class TunedRequest(Protocol):
    """A request that settings are tuned on; `Scene` is one."""

    @property
    def retain_rows(self) -> int:
        """The number of rows to keep."""

    def gap(self, parts: tuple[RunArguments, UnlearningArguments, UnlearningMethod]) -> float:
        """Return the Avg. Gap to retraining, in [0, 1], of what a run gives."""


def ranges(method: UnlearningMethod, args: UnlearningArguments) -> dict[str, tuple[float, float]]:
    """Return the settings of a method that are looked for, with their ranges: the length of a step, and its `searched` settings."""
    if method.one_shot:
        return dict(method.searched)
    arguments = method.arguments_for(args.update, "class")
    limited = "trust_region" if arguments.get("trust_region") else "learning_rate"
    step = "rate" if hasattr(method, "rate") else limited
    return {step: STEP_RANGES[step], **method.searched}


def steps_for(budget: Budget, method: UnlearningMethod, args: UnlearningArguments, retain_rows: int) -> int:
    """Return the steps in which a method reads as many rows as `budget.passes` over the retain set."""
    arguments = method.arguments_for(args.update, "class")
    batch = args.per_device_train_batch_size or arguments.get("per_device_train_batch_size", 64)
    per_forget = args.retain_per_forget or arguments.get("retain_per_forget", 1)
    forget = method.passes_a_step() if method.needs_forget else 0.0
    rows = batch * (forget + (per_forget if method.needs_retain else 0)) * args.gradient_accumulation_steps
    return max(1, math.ceil(budget.passes * retain_rows / rows))


def tune(
    name: str,
    request: TunedRequest,
    parts: Callable[[Mapping[str, Any]], tuple[RunArguments, UnlearningArguments, UnlearningMethod]],
    budget: Budget,
    file: Path,
    described_by: Any,
    tell: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Return the settings of a method with the smallest gap to retraining on `request`, among `budget.trials` trials.

    Trials that are in `file` from an earlier call with the same settings are not run again. A trial that fails counts as `WORST`.

    Args:
        name: what the method is called in the comparison.
        request: what the trials are run on.
        parts: options -> the checked arguments of a run.
        budget: trials and passes.
        file: where the trials are kept.
        described_by: all else that the trials depend on.
        tell: called with a line about each trial.
    """
    import optuna  # a comparison of defaults does not need it

    _, args, method = parts({})
    searched = ranges(method, args)
    digest = digest_of(described_by, budget.passes, searched, method.describe())
    fixed = {} if method.one_shot else {"max_steps": steps_for(budget, method, args, request.retain_rows)}
    if not searched:
        return fixed
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {
        key: optuna.distributions.FloatDistribution(low, high, log=True) for key, (low, high) in searched.items()
    }
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=min(10, budget.trials // 2 + 1))
    )
    for line in lines_of(file):
        if line["digest"] == digest and line["method"] == name:
            study.add_trial(optuna.trial.create_trial(params=line["settings"], distributions=space, value=line["gap"]))
    for number in range(len(study.trials), budget.trials):
        trial = study.ask(space)
        settings = {key: float(f"{value:.4g}") for key, value in trial.params.items()}
        gap = _tried(request, parts, {**settings, **fixed})
        study.tell(trial, gap)
        append_line(file, {"method": name, "digest": digest, "settings": settings, "gap": gap})
        tell(f"{name}, trial {number + 1} of {budget.trials}: Avg. Gap {100 * gap:.1f} with {json.dumps(settings)}")
    best = min(study.trials, key=lambda t: math.inf if t.value is None else t.value)
    return {**{key: float(f"{value:.4g}") for key, value in best.params.items()}, **fixed}


def _tried(request: TunedRequest, parts: Callable[..., Any], settings: Mapping[str, Any]) -> float:
    try:
        gap = request.gap(parts(settings))
    except Exception:  # settings that do not work are a trial that found nothing
        logger.warning("The trial with %s failed.", dict(settings), exc_info=True)
        return WORST
    return gap if math.isfinite(gap) else WORST

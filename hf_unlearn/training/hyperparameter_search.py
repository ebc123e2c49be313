"""Hyper-parameter search over a method and its arguments: every trial is a trainer of its own, on a copy of the original."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn
from transformers.hyperparameter_search import OptunaBackend
from transformers.trainer_callback import ExportableState

from ..methods import METHODS, UnlearningMethod
from ..models.forward import unwrap
from ..models.snapshot import Snapshot
from .arguments import UnlearningArguments
from .protocols import FinishedRun

Objective = Callable[[dict[str, float]], Any]


class SearchedTrainer(FinishedRun, Protocol):
    """A trainer, as a search sees it: made again, with other values, for every trial.

    Attributes:
        given: the arguments that it was made with.
        original: a copy of the weights that moved, None before `train()`.
        The others are as in the HF Trainer.
    """

    given: dict[str, Any]
    original: Snapshot | None
    eval_dataset: Any
    callback_handler: Any
    accelerator: Any

    def train(self) -> Any:
        """Unlearn."""

    def evaluate(self) -> dict[str, float]:
        """Measure on `eval_dataset`."""

    def add_callback(self, callback: Any) -> None:
        """Add a callback."""


T = TypeVar("T", bound=SearchedTrainer)


def search(
    trainer: SearchedTrainer,
    hp_space: Callable[[Any], Mapping[str, Any]] | None,
    compute_objective: Objective | None = None,
    n_trials: int = 20,
    direction: str | list[str] = "minimize",
    backend: str | None = None,
    hp_name: Callable[[Any], str] | None = None,
    **kwargs: Any,
) -> Any:
    """Search with Optuna, as `Trainer.hyperparameter_search`: returns a `BestRun` (several for several objectives).

    Each trial starts from the original, in a folder `run-N` of `output_dir`, and publishes nothing; the trainer and its model
    are left as they are. No `model_init` is needed. `tuned` makes a trainer of the values that were found:

        best = trainer.hyperparameter_search(lambda trial: {"method.sigma": trial.suggest_float("method.sigma", 0.1, 3)})
        tuned(trainer, best.hyperparameters).train()

    Args:
        hp_space: of an Optuna trial, the values of method fields (`"method.sigma"`), of fields of `UnlearningArguments`
            (`"trust_region"`), or of `"method"`, a key.
        compute_objective: of what a trial is measured by, `measures_of`; by default `remaining_damage`.
        direction: `minimize` or `maximize`, or a list of them for as many objectives.
        hp_name: the name of a trial's folder.
        kwargs: of `optuna.create_study` and `Study.optimize` (`sampler`, `storage`, `study_name`, `timeout`, `catch`, ...).

    Raises:
        ValueError: another backend than Optuna, no `hp_space`, or a name in it that is no field.
    """
    if backend not in (None, "optuna"):
        raise ValueError(f"`backend={backend!r}`: trials are run by Optuna. Leave it out, or pass 'optuna'.")
    if hp_space is None:
        raise ValueError(
            "`hp_space` is missing: a function of the trial that returns values, such as "
            "`lambda trial: {'method.sigma': trial.suggest_float('method.sigma', 0.1, 3)}`."
        )
    if trainer.given["optimizers"] != (None, None):
        raise ValueError(
            "`optimizers` hold the parameters of one model, and each trial has its own. Leave them out; `optim`, `learning_rate` "
            "and `trust_region` can be searched over."
        )
    optuna = OptunaBackend()
    optuna.ensure_available()
    return optuna.run(
        Trials(trainer, hp_space, compute_objective or remaining_damage, hp_name), n_trials, direction, **kwargs
    )


def tuned(trainer: T, values: Mapping[str, Any], folder: str | Path | None = None) -> T:
    """A trainer like `trainer`, on a copy of the original, with other `values` (names as in `search`), not trained yet.

    Raises:
        ValueError: a name is no field, or a value is refused.
    """
    given = trainer.given
    args: UnlearningArguments = given["args"] or trainer.args
    key = values.get("method")
    if key is not None and key not in METHODS:
        raise ValueError(f"`method={key!r}` is unknown. Known: {', '.join(METHODS)}.")
    method = METHODS[key]() if key else given["method"] or METHODS[args.method]()
    fields = {name.removeprefix("method."): v for name, v in values.items() if name.startswith("method.")}
    settings = {name: v for name, v in values.items() if not name.startswith("method.")}
    _check_names(fields, method, "method.")
    _check_names(settings, args, "")
    if folder is not None:
        settings |= {"output_dir": str(folder), "push_to_hub": False}
        settings |= {"run_name": f"{args.run_name}-{Path(folder).name}"} if args.run_name else {}
    parts = {
        **given,
        "model": original_of(trainer),
        "args": dataclasses.replace(args, **settings),
        "method": _fresh(method, **fields),
        "callbacks": None,
    }
    new = type(trainer)(**parts)
    known = {type(c) for c in new.callback_handler.callbacks}
    for callback in trainer.callback_handler.callbacks:
        if type(callback) not in known:  # one with a state of the run, as early stopping has, starts anew
            new.add_callback(copy.copy(callback) if isinstance(callback, ExportableState) else callback)
    return new


def original_of(trainer: SearchedTrainer) -> nn.Module:
    """A copy of the model that `trainer` was given, whether it has been trained since or not."""
    with nullcontext() if trainer.original is None else trainer.original_weights():
        model: Any = copy.deepcopy(unwrap(trainer.model))
    patch = trainer.patch
    if patch is None:
        return model
    if not patch.before:
        return model.unload()
    model.base_model.set_adapter(patch.before)
    model.delete_adapter(patch.name)
    return model


def measures_of(trainer: SearchedTrainer) -> dict[str, float]:
    """What a finished run is judged by: its outcome, and, with an `eval_dataset`, what `evaluate` measures.

    `forget_remembered` and, where it is known, `forget_target` are shares of the forget set, `retain_accuracy` and `retain_drop`
    of the rows on which damage shows; `outputs_moved` is the mean total variation on the forget set.
    """
    outcome = trainer.outcome
    assert outcome is not None
    found: dict[str, float] = {"forget_remembered": outcome.forget_end, "outputs_moved": outcome.outputs_moved}
    if outcome.forget_target is not None:
        found["forget_target"] = outcome.forget_target
    if outcome.retain_start is not None and outcome.retain_end is not None:
        found |= {"retain_accuracy": outcome.retain_end, "retain_drop": outcome.retain_start - outcome.retain_end}
    found |= {"steps": outcome.steps, "seconds": trainer.seconds}
    found["whole_classes"] = float(bool(trainer.reference.forgotten_classes))
    return found | (trainer.evaluate() if trainer.eval_dataset is not None else {})


def remaining_damage(measures: Mapping[str, float]) -> float:
    """The default objective: how far the forget set is from its target, and accuracy lost on kept rows, each in [0, 1]; lower is better.

    A class may be remembered less than its target says, single rows may not: a retrained model knows them too. Without a
    target it is the share remembered.
    """
    distance = measures["forget_remembered"] - measures.get("forget_target", 0.0)
    if measures["whole_classes"]:
        distance = max(distance, 0.0)
    return abs(distance) + max(measures.get("retain_drop", 0.0), 0.0)


class Trials:
    """What the search drives in the place of a trainer; `train` is one trial, and leaves its `objective`."""

    def __init__(
        self,
        trainer: SearchedTrainer,
        hp_space: Callable[[Any], Mapping[str, Any]],
        compute_objective: Objective,
        hp_name: Callable[[Any], str] | None,
    ) -> None:
        self.trainer, self.args, self.accelerator = trainer, trainer.args, trainer.accelerator
        self.hp_space, self.compute_objective, self.hp_name = hp_space, compute_objective, hp_name
        self.model = self.model_wrapped = None
        self.objective: Any = None

    def train(self, resume_from_checkpoint: str | None = None, trial: Any = None) -> None:
        name = self.hp_name(trial) if self.hp_name is not None else f"run-{trial.number}"
        run = tuned(self.trainer, self.hp_space(trial), Path(self.args.output_dir or ".") / name)
        self.accelerator = run.accelerator
        try:
            run.train()
            self.objective = self.compute_objective(measures_of(run))
        except FloatingPointError:
            self.objective = math.nan  # the trial has failed, the search goes on


def _fresh(method: UnlearningMethod, **values: Any) -> UnlearningMethod:
    """An instance of its own with these fields, without what a run has left in it."""
    inner = {
        f.name: _fresh(value)
        for f in dataclasses.fields(method)
        if f.init and isinstance(value := getattr(method, f.name), UnlearningMethod)
    }
    return dataclasses.replace(method, **{**inner, **values})


def _check_names(values: Mapping[str, Any], of: Any, prefix: str) -> None:
    known = [f.name for f in dataclasses.fields(of) if f.init]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{prefix}{close[0]}`?" if close else ""
            raise ValueError(f"`hp_space`: `{prefix}{name}` is no field of `{type(of).__name__}`.{hint}")

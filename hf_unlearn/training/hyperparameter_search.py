"""Hyper-parameter search over a method and its arguments. Each trial is a trainer of its own, on a copy of the original."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn
from transformers.hyperparameter_search import OptunaBackend
from transformers.trainer_callback import ExportableState

from ..methods import UnlearningMethod, find_method
from ..models.forward import unwrap
from ..models.snapshot import Snapshot
from ..utils.argument_checks import did_you_mean
from .arguments import UnlearningArguments
from .protocols import FinishedRun

Objective = Callable[[dict[str, float]], Any]


class SearchedTrainer(FinishedRun, Protocol):
    """A trainer, for a search. Attributes without a description are those of the HF Trainer.

    Attributes:
        given: The arguments of the constructor.
        original: A copy of the weights that may move, None before `train()`.
    """

    given: dict[str, Any]
    original: Snapshot | None
    eval_dataset: Any
    callback_handler: Any
    accelerator: Any
    train: Callable[..., Any]
    evaluate: Callable[..., dict[str, float]]
    add_callback: Callable[[Any], None]


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
    """Search with Optuna, as `Trainer.hyperparameter_search` does, and return a `BestRun` (a list for several objectives).

    Each trial starts from the original, writes to a folder `run-N` of `output_dir`, and publishes nothing. The trainer and its
    model do not change, and need no `model_init`. `tuned` makes a trainer with the values that were found:

        best = trainer.hyperparameter_search(lambda trial: {"method.sigma": trial.suggest_float("method.sigma", 0.1, 3)})
        tuned(trainer, best.hyperparameters).train()

    Args:
        trainer: The trainer whose arguments, sets and model each trial uses.
        hp_space: A function of an Optuna trial that returns values: of fields of the method (`"method.sigma"`), of fields of
            `UnlearningArguments` (`"trust_region"`), or of `"method"` (a name).
        compute_objective: A function of `measures_of` a trial. Default: None, `remaining_damage`.
        n_trials: The number of trials. Default: 20.
        direction: "minimize" or "maximize", or a list of these for several objectives. Default: "minimize".
        backend: None or "optuna". Default: None.
        hp_name: A function of an Optuna trial that returns the name of its folder. Default: None, `run-N`.
        kwargs: Further arguments of `optuna.create_study` and `Study.optimize`, such as `sampler`, `storage` or `timeout`.

    Raises:
        ValueError: The backend is not Optuna, `hp_space` is missing, or it names an unknown field.
    """
    if backend not in (None, "optuna"):
        raise ValueError(f"`backend={backend!r}` is not supported: only 'optuna' is. Leave it out.")
    if hp_space is None:
        example = "lambda trial: {'method.sigma': trial.suggest_float('method.sigma', 0.1, 3)}"
        raise ValueError(f"`hp_space` is missing. Pass a function of the trial, such as `{example}`.")
    if trainer.given["optimizers"] != (None, None):
        raise ValueError(
            "`optimizers` hold the parameters of one model, and each trial has its own model. Leave them out, and search over "
            "`optim`, `learning_rate` or `trust_region`."
        )
    optuna, trials = OptunaBackend(), Trials(trainer, hp_space, compute_objective or remaining_damage, hp_name)
    optuna.ensure_available()
    return optuna.run(trials, n_trials, direction, **kwargs)


def tuned(trainer: T, values: Mapping[str, Any], folder: str | Path | None = None) -> T:
    """Return an untrained trainer like `trainer`, on a copy of the original, with other `values` (names as in `search`).

    With a `folder`, it writes to this one and publishes nothing. Raise ValueError if a name is not a field.
    """
    given = trainer.given
    args: UnlearningArguments = given["args"]
    method = find_method(values.get("method") or given["method"] or args.method, given["retain_dataset"] is not None)
    fields = {name.removeprefix("method."): v for name, v in values.items() if name.startswith("method.")}
    settings = {name: v for name, v in values.items() if not name.startswith("method.")}
    _check_names(fields, method, "method.")
    _check_names(settings, args, "")
    if folder is not None:
        settings |= {"output_dir": str(folder), "push_to_hub": False}
        settings |= {"run_name": f"{args.run_name}-{Path(folder).name}"} if args.run_name else {}
    changed = {"model": original_of(trainer), "args": dataclasses.replace(args, **settings), "callbacks": None}
    new = type(trainer)(**{**given, **changed, "method": _fresh(method, **fields)})
    known = {type(c) for c in new.callback_handler.callbacks}
    for callback in trainer.callback_handler.callbacks:
        if type(callback) not in known:  # a callback with a state, such as early stopping, needs a copy for each trial
            new.add_callback(copy.copy(callback) if isinstance(callback, ExportableState) else callback)
    return new


def original_of(trainer: SearchedTrainer) -> nn.Module:
    """Return a copy of the model that `trainer` was given, also after training."""
    with nullcontext() if trainer.original is None else trainer.original_weights():
        model: Any = copy.deepcopy(unwrap(trainer.model))
    patch = trainer.patch
    if patch is None or not patch.before:
        return model if patch is None else model.unload()
    model.base_model.set_adapter(patch.before)
    model.delete_adapter(patch.name)
    return model


def measures_of(trainer: SearchedTrainer) -> dict[str, float]:
    """Return the measures of a finished run: those of its outcome and, with an `eval_dataset`, those of `evaluate`.

    `forget_remembered` and, if it is known, `forget_target` are shares of the forget set. `retain_accuracy` and `retain_drop`
    are of the retained rows that show damage. `outputs_moved` is the mean total variation distance on the forget set.
    """
    outcome = trainer.outcome
    assert outcome is not None
    found: dict[str, float] = {"forget_remembered": outcome.forget_end, "outputs_moved": outcome.outputs_moved}
    if outcome.forget_target is not None:
        found["forget_target"] = outcome.forget_target
    if outcome.retain_start is not None and outcome.retain_end is not None:
        found |= {"retain_accuracy": outcome.retain_end, "retain_drop": outcome.retain_start - outcome.retain_end}
    whole_classes = float(bool(trainer.reference.forgotten_classes))
    found |= {"steps": outcome.steps, "seconds": trainer.seconds, "whole_classes": whole_classes}
    return found | (trainer.evaluate() if trainer.eval_dataset is not None else {})


def remaining_damage(measures: Mapping[str, float]) -> float:
    """Return the default objective: distance of the forget set from its target plus accuracy lost on retained rows.

    Both are in [0, 1], and lower is better. A class may be remembered less than its target says. Single rows may not: a
    retrained model knows them too. Without a target, the distance is the share remembered.
    """
    distance = measures["forget_remembered"] - measures.get("forget_target", 0.0)
    if measures["whole_classes"]:
        distance = max(distance, 0.0)
    return abs(distance) + max(measures.get("retain_drop", 0.0), 0.0)


class Trials:
    """The search runs this in the place of a trainer. Each `train` is one trial, and sets `objective`."""

    def __init__(self, trainer: SearchedTrainer, hp_space: Any, compute_objective: Objective, hp_name: Any) -> None:
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
            self.objective = math.nan  # this trial has failed, and the search continues


def _fresh(method: UnlearningMethod, **values: Any) -> UnlearningMethod:
    """Return a copy of `method` with these fields, and without the state of a run."""
    held = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init}
    inner = {name: _fresh(value) for name, value in held.items() if isinstance(value, UnlearningMethod)}
    return dataclasses.replace(method, **{**inner, **values})


def _check_names(values: Mapping[str, Any], of: Any, prefix: str) -> None:
    known = [f.name for f in dataclasses.fields(of) if f.init]
    for name in (name for name in values if name not in known):
        hint = did_you_mean(f"{prefix}{name}", [f"{prefix}{one}" for one in known])
        raise ValueError(f"`hp_space`: `{prefix}{name}` is not a field of `{type(of).__name__}`.{hint}")

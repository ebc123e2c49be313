"""Run a comparison: methods on requests with seeds, each measured against models that were retrained once for all of them."""

import gc
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from torch import nn

from ..evaluation.audit.auditor import Auditor
from ..evaluation.audit.model_outputs import Measured, run_model
from ..evaluation.audit.verdicts import remaining
from ..evaluation.audit.yardsticks import Yardsticks
from ..evaluation.comparison.cells import GAP, Cell, append, digest_of, read
from ..evaluation.comparison.comparison import Comparison
from ..evaluation.comparison.figures import answers_alike, divergences, figures
from ..evaluation.comparison.passes import counted_passes
from ..methods import UnlearningMethod
from ..metrics.functional.distance import average_gap
from ..training.arguments import UnlearningArguments
from ..utils import VERSION
from ..utils.safe_text import shown
from .job import Job
from .prepare import prepare
from .run_arguments import RunArguments
from .training_settings import is_guess
from .unlearn import SavedModels, kept_accuracy, retrain, run_method

logger = logging.getLogger(__name__)

CELLS = "cells.jsonl"
LEAST = 2  # retrained models: one does not show how far they are from each other
MEASURED = "measured"  # folder with what the audit measured of originals and retrained models
Parts = tuple[RunArguments, UnlearningArguments, UnlearningMethod]


@dataclass(frozen=True)
class Plan:
    """A cell that is to be run.

    Attributes:
        scenario, method, seed: what the cell is called by.
        parts: makes the checked arguments of the run. They are made anew for each use, because a run changes them.
    """

    scenario: str
    method: str
    seed: int
    parts: Callable[[], Parts]


class Scene:
    """One request of a comparison: its rows, the original, and the retrained models, each trained and measured once.

    Args:
        name: of the scenario.
        parts: makes the arguments of a run of this request, with a method that reads held-out rows: so no method is measured on
            rows that another one stops by.
        folder: where the retrained models are kept.
        measured: folder for what the audit measured of them.
        audit_seed: seed of the audit's draws. Default: None, one for each original, which the folder keeps.
    """

    def __init__(
        self, name: str, parts: Callable[[], Parts], folder: Path, measured: Path, audit_seed: int | None = None
    ) -> None:
        self.name, self.folder, self.measured, self.audit_seed = name, folder, measured, audit_seed
        run, args, method = parts()
        run.resume, args.output_dir = folder.is_dir(), str(folder)
        self.job: Job = prepare(run, args, method)
        if self.job.test is None:
            raise ValueError("A comparison measures every model on a test split. Name one: `test_split` in `options`.")

    @cached_property
    def cost(self) -> dict[str, float]:
        """Seconds and passes of a retraining, the mean over all."""
        _ = self.models
        return self._cost

    @cached_property
    def models(self) -> list[nn.Module]:
        """The retrained models."""
        job = self.job
        assert job.split is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        found, seconds = retrain(job, kept_accuracy(job, job.model) if is_guess(job.run) else None)
        assert job.retrained_with is not None
        passes = job.retrained_with.epochs * len(job.split.retain)
        self._cost = {"retraining_seconds": seconds, "retraining_passes": passes}
        return list(found) if isinstance(found, SavedModels) else [found]

    @cached_property
    def auditor(self) -> Auditor:
        job = self.job
        assert job.split is not None
        others = {f"retrained[{i}]": self._ready(model) for i, model in enumerate(self.models)}
        return Auditor(
            self._ready(job.model),
            forget=job.split.forget,
            retain=job.split.retain,
            test=job.test,
            others=others,
            processing_class=job.processing_class,
            kind=job.run.kind,
            audit_seed=self.audit_seed,
            audit_cache=self.measured,
            **job.columns,
        )

    @cached_property
    def retrained(self) -> list[Measured]:
        auditor = self.auditor
        return [auditor.measure(model, f"retrained[{i}]") for i, model in enumerate(self.models)]

    @cached_property
    def known(self) -> dict[str, dict[str, float]]:
        """The figures of the original and of each retrained model, by name."""
        models, gone = [self.auditor.original, *self.retrained], self.auditor.in_forgotten_class
        return {m.name: figures(m, gone, [other for other in self.retrained if other is not m]) for m in models}

    @property
    def retain_rows(self) -> int:
        """The number of rows to keep."""
        assert self.job.split is not None
        return len(self.job.split.retain)

    def gap(self, parts: Parts) -> float:
        """Return the Avg. Gap to retraining, in [0, 1], of what a run with these arguments gives. No other attack is run."""
        auditor, known = self.auditor, self.known
        run, args, method = parts
        with redirect_stdout(io.StringIO()):
            trainer = run_method(prepare(run, args, method), method).trainer
        outputs = run_model(self._ready(trainer.model), auditor.sets, auditor.processor, name="trial")
        measured = figures(Measured("trial", outputs, {}, [], 0.0), auditor.in_forgotten_class)
        band = [known[model.name] for model in self.retrained]
        return average_gap([measured[m] for m in GAP], [fmean(one[m] for one in band) for m in GAP])

    def _ready(self, model: nn.Module) -> nn.Module:
        return model.to(self.job.args.device).eval()

    def cell(self, plan: Plan, digest: str) -> Cell:
        """Run a method on this request, and measure the model that it gives."""
        auditor, known = self.auditor, self.known  # retrained models are trained and measured first
        run, args, method = plan.parts()
        job = prepare(run, args, method)
        with counted_passes() as passes, redirect_stdout(io.StringIO()):  # what the HF Trainer prints of each run
            trainer = run_method(job, method).trainer
        outcome = trainer.outcome
        assert outcome is not None
        unlearned = auditor.measure(self._ready(trainer.model), "unlearned")
        # The audit may leave out more: here it is known that no retrained model was made from the unlearned one.
        judges = Yardsticks(auditor.classes, auditor.in_forgotten_class, auditor.same_shares, auditor.original)
        faults = {model.name: judges.fault_of(model) for model in self.retrained}
        retrained = [model for model in self.retrained if not faults[model.name]]
        if len(retrained) < LEAST:
            told = " ".join(f"`{name}`: {fault}" for name, fault in faults.items() if fault)
            raise ValueError(
                f"Of the retrained models {len(retrained)} can be compared with, and {LEAST} are needed. {told}"
            )
        audit = auditor.audit(unlearned, retrained)
        return Cell(
            plan.scenario,
            plan.method,
            plan.seed,
            digest,
            kind="class" if auditor.classes else "samples",
            settings={**described(trainer.method), **lengths(trainer)},
            exit_code=0 if outcome.ok else 1,
            stopped=outcome.stopped,
            steps=outcome.steps,
            warnings=list(outcome.warnings),
            handed_back=answers_alike(unlearned, auditor.original),
            verdict=audit.verdict,
            because=list(audit.because),
            figures={
                "original": known["original"], "unlearned": figures(unlearned, auditor.in_forgotten_class, retrained),
            },
            retrained=[known[model.name] for model in retrained],
            divergence=divergences(auditor.original, unlearned, retrained),
            lines={
                line.key: {
                    "unlearned": line.unlearned, "expected": line.expected, "margin": line.margin, "result": line.result,
                    "telling": line.telling,
                }
                for line in audit.lines
                if line.expected is not None
            },
            left=None if (left := remaining(audit.lines)) is None else left[0],
            distance=audit.run["distance"],
            cost={"seconds": trainer.seconds, "passes": passes.total, **self.cost},
        )  # fmt: skip


def described(method: UnlearningMethod) -> dict[str, Any]:
    """Return the settings of a method, with the learning rate that it found for this original, and without what it measured."""
    found = {} if method.found_rate is None else {"found_rate": float(f"{method.found_rate:.3g}")}
    return {name: value for name, value in method.describe().items() if not isinstance(value, dict)} | found


def lengths(trainer: Any) -> dict[str, Any]:
    """Return what decides how long a run is and how far its steps go."""
    names = ("update", "learning_rate", "trust_region", "max_steps", "num_train_epochs", "retain_per_forget", "optim")
    args = trainer.args
    told = {name: getattr(args, name) for name in names}
    return {
        **{k: v if isinstance(v, int | float | None) else str(v) for k, v in told.items()},
        "batch_rows": args.batch_rows,
    }


def compare(
    plans: Sequence[Plan],
    scenes: Mapping[str, Callable[[], Scene]],
    folder: Path,
    described_by: Mapping[str, Any],
    tell: Callable[[str], object] = print,
) -> Comparison:
    """Run the cells that are not in `folder` yet, and return all of them. After each one the tables are written anew.

    A cell that fails is a cell with an error, and the comparison goes on. Ctrl-C ends it; run it again to go on, and to try again
    what failed.

    Args:
        plans: the cells, in order.
        scenes: scenario -> makes its `Scene`. It is made when a cell of it is to be run, and one at a time is in memory.
        folder: where the cells and the tables are kept.
        described_by: scenario -> all settings that its cells depend on; `""` has those of all.
        tell: called with a line about each cell.
    """
    digests = {plan: digest_of(described_by[""], described_by[plan.scenario], _settings_of(plan)) for plan in plans}
    file = folder / CELLS
    known = {key for key, cell in read(file).items() if not cell.error}
    wanted = [plan for plan in plans if _key(plan, digests[plan]) not in known]
    if done := len(plans) - len(wanted):
        tell(f"{done} of {len(plans)} cells are there from an earlier run.")
    started, scene = time.perf_counter(), None
    for number, plan in enumerate(wanted):
        if scene is None or scene.name != plan.scenario:
            scene = None
            gc.collect()  # the models of the last request go before those of the next are loaded
            scene = scenes[plan.scenario]()
        cell = _measured(scene, plan, digests[plan])
        append(file, cell)
        _save(plans, digests, folder, described_by[""])
        left = (time.perf_counter() - started) / (number + 1) * (len(wanted) - number - 1)
        told = cell.error or f"{cell.verdict}, Avg. Gap {100 * cell.gap():.1f}"
        tell(f"{plan.scenario}, {plan.method}, seed {plan.seed}: {told} (about {_spelled(left)} left)")
    return _save(plans, digests, folder, described_by[""])


def _measured(scene: Scene, plan: Plan, digest: str) -> Cell:
    try:
        return scene.cell(plan, digest)
    except Exception as error:  # a cell that fails is a row of the table, and the others go on
        logger.warning("%s, %s, seed %d failed.", plan.scenario, plan.method, plan.seed, exc_info=True)
        return Cell(plan.scenario, plan.method, plan.seed, digest, error=f"{type(error).__name__}: {shown(error, 300)}")


def _settings_of(plan: Plan) -> Any:
    run, args, method = plan.parts()
    own = {f.name: getattr(run, f.name) for f in fields(run)}
    words = {
        name: str(value)
        for name, value in own.items()
        if name not in ("resume", "figures", "relearning", "retrained_cache")
    }
    changed = {
        f.name: str(getattr(args, f.name, None))
        for f in fields(UnlearningArguments)
        if f.name in UnlearningArguments.__annotations__
    }
    return words, changed, json.loads(json.dumps(method.describe(), default=str))


def _key(plan: Plan, digest: str) -> tuple[str, str, int, str]:
    return plan.scenario, plan.method, plan.seed, digest


def _save(plans: Sequence[Plan], digests: Mapping[Plan, str], folder: Path, run: Mapping[str, Any]) -> Comparison:
    known = read(folder / CELLS)
    cells = [known[key] for plan in plans if (key := _key(plan, digests[plan])) in known]
    versions = {"hf_unlearn": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    found = Comparison(cells, {**run, **versions})
    found.save(folder)
    return found


def _spelled(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"

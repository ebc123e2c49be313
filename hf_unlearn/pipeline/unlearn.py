"""The long steps of a run: unlearn, retrain for comparison, and measure both models."""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from ..data.pairs import PreparedRows
from ..data.sampling import draw
from ..evaluation.report.bias_pattern import read_pattern
from ..evaluation.report.report import UnlearningReport
from ..evaluation.report.report_data import retrained_names
from ..methods import Retrain, UnlearningMethod
from ..models.adapters import base_classifier, with_adapter_like
from ..models.prediction import predict
from ..models.pretrained import load_classifier, save_model
from ..models.processor import Processor
from ..models.snapshot import fingerprints
from ..models.vocabulary import blank_rows
from ..trainer import UnlearningTrainer
from ..training.arguments import UnlearningArguments
from ..training.checkpoints import finished_marker, read_state, resumable
from ..training.checks import check_rows
from ..training.plain_training import warn_if_untrained
from ..training.resuming import save_finished, train_or_resume
from ..training.row_checks import check_every_row
from ..utils.distributed import in_any_process
from .job import Job
from .records import record_request
from .retrained_cache import find_entry
from .training_settings import TrainingSettings, is_guess, trainings

FIT = 0.05  # accuracy on the retain set by which a retrained model may stay below the original
FITTED_ROWS = 2_000


def unlearn(
    job: Job,
    method: UnlearningMethod,
    retrained: tuple[nn.Module | Iterable[nn.Module], float] | None = None,
    keep: Callable[[Any], None] | None = None,
) -> tuple[Any, UnlearningReport]:
    """Unlearn `job.split` from the job's model and measure the result. Returns the trainer and the report.

    If several processes run, only the first measures; the others return an empty report.

    Args:
        retrained: what `retrain` returned. If None, and if `job.run.retrain` asks for a retrained model, it is trained here.
        keep: called with the trainer before anything is measured, so that a failed report does not lose the model.
    """
    done = run_method(job, method, keep)
    trainer = done.trainer
    if retrained is None and job.run.retrain:
        with trainer.original_weights() as original:
            wanted = kept_accuracy(job, original) if is_guess(job.run) else None
        retrained = retrain(job, wanted)
    if not trainer.is_world_process_zero():
        return trainer, UnlearningReport(models={})
    models, seconds = retrained or (None, None)
    report = trainer.report(
        done.retain, done.test, models, retrained_seconds=seconds, relearning=job.run.relearning, pattern=done.pattern
    )
    report.run |= record_request(job, trainer)
    if job.retrained_with is not None:
        start = job.base.describe() if job.base else "none" if job.run.from_scratch else None
        cached = {"cached": job.retrained_before} if job.retrained_before else {}
        report.run["retraining"] = asdict(job.retrained_with) | {"base": start, "void": bool(report.void)} | cached
    return trainer, report


@dataclass(frozen=True)
class Unlearned:
    """A run that is done: its trainer, whose model unlearned, and checked rows to measure it on.

    Attributes:
        trainer: the trainer; `trainer.outcome` says what happened.
        retain: the rows to keep.
        test: the rows that no model was trained on, None without any.
        pattern: what `read_pattern` found in the test rows.
    """

    trainer: UnlearningTrainer
    retain: Any
    test: Any
    pattern: Any


def run_method(job: Job, method: UnlearningMethod, keep: Callable[[Any], None] | None = None) -> Unlearned:
    """Unlearn `job.split` from the job's model, in place, without measuring the result. See `unlearn` for `keep`."""
    if job.args.forget_kind == "auto":
        job.args.forget_kind = job.run.kind
    retain = job.train if job.split is None else job.split.retain
    trainer = UnlearningTrainer(
        model=job.model,
        args=job.args,
        method=method,
        forget_dataset=None if job.split is None else job.split.forget,
        retain_dataset=retain if method.needs_retain else None,
        eval_dataset=job.validation,
        processing_class=job.processing_class,
        peft_config=job.run.peft_config,
        base_model="none" if job.run.from_scratch else job.base,
        **job.columns,
    )
    if not method.needs_retain:  # such a method must not train on these rows, and its damage to them must be seen
        retain = trainer.processor.align(retain, "train_split")
        check_rows(trainer.processor, retain, "train_split")
        trainer.guard_dataset = retain
    test = trainer.processor.align(job.test, "test_split")
    if test is not None:
        check_rows(trainer.processor, test, "test_split", needed=True)
    for rows, argument in ((retain, "retain_dataset"), (test, "test_split")):
        if job.args.check_rows and rows is not None:
            check_every_row(trainer.processor, rows, argument)
    pattern = read_pattern(job.run.bias_column, job.run.bias_labels, trainer.processor, test)
    _tell_if_retraining_is_cheaper(job, trainer)
    train_or_resume(trainer, job.run.resume)
    if job.dropped:
        blank_rows(trainer.model, job.dropped, getattr(job.processing_class, "unk_token_id", None))
    if keep is not None and trainer.is_world_process_zero():
        keep(trainer)
    return Unlearned(trainer, retain, test, pattern)


def _tell_if_retraining_is_cheaper(job: Job, trainer: UnlearningTrainer) -> None:
    """Print a line before the run if it may read more rows than a retraining. A method says what its passes cost."""
    args, method = trainer.args, trainer.method
    if job.split is None or method.one_shot or not method.needs_forget or not hasattr(job.split.retain, "__len__"):
        return
    rows, kept = len(trainer.unlearning_data), len(job.split.retain)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(rows / args.batch_rows) * args.num_train_epochs
    sides = method.passes_a_step() + (args.retain_per_forget if method.needs_retain else 0)
    ours = steps * min(rows, args.batch_rows) * args.gradient_accumulation_steps * sides
    moving = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    ours += method.rows_before_steps(rows, kept, moving)
    theirs = kept * trainings(job.run, rows + kept, kept, job.base is not None)[0].epochs
    if ours > theirs and trainer.is_world_process_zero():
        print(
            f"Retraining is probably cheaper here: this run may cost as much as training on {ours:,.0f} rows, and "
            f"retraining trains on {theirs:,.0f}.",
            flush=True,
        )


@dataclass(frozen=True)
class Retrained:
    """A retrained model, the seconds of its training, and the trainer that trained it; None if it comes from the cache."""

    model: nn.Module
    seconds: float
    trainer: UnlearningTrainer | None


@dataclass(frozen=True)
class SavedModels:
    """Models in folders. Each is loaded when its turn comes, so that one alone is in memory."""

    folders: Sequence[Path]

    def __iter__(self) -> Iterator[nn.Module]:
        for folder in self.folders:
            yield load_classifier(str(folder))


def retrain(job: Job, wanted: float | None = None) -> tuple[nn.Module | SavedModels, float]:
    """Train a fresh model like the original, without the forget set, and save it as `retrained`. Returns it and the seconds.

    A training whose settings are a guess is repeated with more epochs until the model fits the retain set. If `job.run.retrain`
    asks for more models, each is trained with the settings of the first and another seed, and saved as `retrained-2` and so on.
    Then all of them are returned, and the seconds are a mean. A model that an earlier run trained in the same way comes from the
    cache (`job.run.retrained_cache`).

    Args:
        wanted: accuracy of the original on the retain set, in [0, 1]. Default: None, `job.model` is the original.
    """
    assert job.split is not None
    start = "random weights" if job.base is None else f"the base {job.base.source}"
    print(f"Retraining without the {len(job.split.forget)} rows to forget, for comparison, from {start}", flush=True)
    folders = [Path(job.args.output_dir or ".") / name for name in retrained_names(max(1, job.run.retrain))]
    one, job.retrained_with = _train_until_it_fits(job, folders[0], wanted)
    if len(folders) == 1:
        return one.model, one.seconds
    seconds = [one.seconds]
    for number, folder in enumerate(folders[1:], start=2):
        del one
        gc.collect()  # what a trainer holds goes only now, and one model at a time is enough
        print(f"Retraining model {number} of {len(folders)}, with another seed", flush=True)
        one = _train_fresh(job, job.retrained_with, folder, job.run.resume, number)
        _save(job, one, folder)
        seconds.append(one.seconds)
    return SavedModels(folders), fmean(seconds)


def _train_until_it_fits(job: Job, folder: Path, wanted: float | None) -> tuple[Retrained, TrainingSettings]:
    """Train the first model and save it in `folder`. Returns it and the settings that the search ended with."""
    assert job.split is not None
    split = job.split
    rows = len(split.forget) + len(split.retain), len(split.retain)
    settings = trainings(job.run, *rows, from_base=job.base is not None, adapter=job.adapter)
    if wanted is None and len(settings) > 1:
        wanted = kept_accuracy(job, job.model)
    if job.run.resume:
        settings = settings[_finished(folder, settings) :]
    for number, tried in enumerate(settings):
        if tried.source not in ("defaults", "recipe"):
            told = (
                "settings of more epochs" if tried.source == "search" else f"settings in {tried.source} of the original"
            )
            rate, size = f"learning rate {tried.learning_rate:g}", f"batch size {tried.batch_size}"
            print(f"Retraining with {told}: {tried.epochs:g} epochs, {rate}, {size}", flush=True)
        found = _train_fresh(job, tried, folder, job.run.resume and number == 0)
        if number + 1 == len(settings) or wanted is None:
            break
        reached = kept_accuracy(job, found.model)
        if reached is None or reached >= wanted - FIT:
            break
        print(f"It fits {reached:.1%} of the retain set, the original {wanted:.1%}: it is trained again.", flush=True)
    _save(job, found, folder)
    return found, tried


def _save(job: Job, retrained: Retrained, folder: Path) -> None:
    """Save a retrained model, which `hf-unlearn audit` reads, in the first process."""
    job.retrained_before += retrained.trainer is None
    if job.args.process_index:
        return
    if retrained.trainer is not None:
        save_finished(retrained.trainer, job.processing_class, folder)
    else:
        finished_marker(folder).unlink(missing_ok=True)  # of another model
        save_model(retrained.model, job.processing_class, folder)


def kept_accuracy(job: Job, model: nn.Module) -> float | None:
    """Return the accuracy of `model`, in [0, 1], on at most `FITTED_ROWS` rows of the retain set; None without labels."""
    assert job.split is not None
    processor = Processor(model, job.processing_class, **job.columns)
    rows = PreparedRows(draw(job.split.retain, FITTED_ROWS, job.args.seed), processor, "retain_dataset")
    logits, labels = predict(model, rows, processor, job.args.eval_batch_size)
    return None if labels is None else (logits.argmax(-1) == labels).float().mean().item()


def _train_fresh(job: Job, settings: TrainingSettings, folder: Path, resume: bool, number: int = 1) -> Retrained:
    """Train a model on the retain set, in `folder`, from the base or, if there is none, from random weights.

    If the original is an adapter that was trained on its base, so is this model, with an adapter of the same kind and size.
    `number` counts the retrained models from 1, and each has a seed of its own. A model that is in the cache is not trained. A
    training that is resumed, perhaps with other settings than at its start, goes past the cache.
    """
    assert job.split is not None
    original, seed = base_classifier(job.model), job.args.seed + number

    def untrained() -> nn.Module:
        classifier = job.base.load(original, seed) if job.base else type(original)(original.config)
        return with_adapter_like(job.model, classifier) if job.adapter else classifier

    arguments = {
        **job.train_arguments(settings),
        "save_strategy": "epoch" if job.args.save_strategy == "best" else job.args.save_strategy,
        "save_steps": job.args.save_steps,
        "save_total_limit": 1,
        "max_steps": -1,
        "logging_strategy": "no",
    }
    trainer = UnlearningTrainer(
        model_init=untrained,
        args=UnlearningArguments(output_dir=str(folder), seed=seed, overwrite=True, **arguments),
        method=Retrain(),
        forget_dataset=job.split.forget,
        retain_dataset=job.split.retain,
        processing_class=job.processing_class,
        **job.columns,
    )
    start = fingerprints(trainer.fresh_model())
    entry = None if resume and resumable(folder) else find_entry(trainer, start, job.run.retrained_cache)
    known = None if entry is None else entry.load(trainer.model)
    if not in_any_process(known is None) and known is not None:
        print(
            f"The yardstick {folder.name} comes from the cache: an earlier run trained it, in {known['seconds']:.1f} s and "
            f"{known['steps']:,} steps. `retrained_cache: none` trains it anew.",
            flush=True,
        )
        return Retrained(trainer.model, known["seconds"], None)
    train_or_resume(trainer, resume)
    warn_if_untrained(start, trainer.model, "retrained model")
    if entry is not None and trainer.is_world_process_zero():
        entry.store(trainer.model, trainer.seconds, trainer.state.global_step)
    return Retrained(trainer.model, trainer.seconds, trainer)


def _finished(folder: Path, settings: Sequence[TrainingSettings]) -> int:
    """Return the position of the training that an earlier run ended with in `folder`, or began there; 0 if there is none."""
    for place in resumable(folder):
        with suppress(ValueError, KeyError, TypeError):
            saved = read_state(place)["settings"]
            known = [(s.epochs, s.learning_rate) for s in settings]
            return known.index((saved["num_train_epochs"], saved["learning_rate"]))
    return 0

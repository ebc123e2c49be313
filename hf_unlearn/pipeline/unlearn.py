"""The long steps of a run: unlearn, retrain for comparison, and measure both models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..evaluation.report.bias_pattern import read_pattern
from ..evaluation.report.report import UnlearningReport
from ..methods import Retrain, UnlearningMethod
from ..models.adapters import base_classifier
from ..models.snapshot import fingerprints
from ..trainer import UnlearningTrainer
from ..training.arguments import UnlearningArguments
from ..training.checks import check_rows
from ..training.plain_training import warn_if_untrained
from ..training.resuming import save_finished, train_or_resume
from ..training.row_checks import check_every_row
from .job import Job
from .records import record_request


def unlearn(
    job: Job,
    method: UnlearningMethod,
    retrained: tuple[nn.Module, float] | None = None,
    keep: Callable[[Any], None] | None = None,
) -> tuple[Any, UnlearningReport]:
    """Unlearn `job.split` from the job's model and measure the result. Returns the trainer and the report.

    If several processes run, only the first measures; the others return an empty report.

    Args:
        retrained: the retrained model and the seconds of its training. If None, and if `job.run.retrain` asks for one, it is
            trained here.
        keep: called with the trainer before anything is measured, so that a failed report does not lose the model.
    """
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
        **job.columns,
    )
    if job.test is not None:
        check_rows(trainer.processor, job.test, "test_split")
    for rows, argument in ((retain, "retain_dataset"), (job.test, "test_split")):
        if job.args.check_rows and rows is not None:
            check_every_row(trainer.processor, rows, argument)
    pattern = read_pattern(job.run.bias_column, job.run.bias_labels, trainer.processor, job.test)
    train_or_resume(trainer, job.run.resume)
    if keep is not None and trainer.is_world_process_zero():
        keep(trainer)
    if retrained is None and job.run.retrain:
        retrained = retrain(job)
    if not trainer.is_world_process_zero():
        return trainer, UnlearningReport(models={})
    model, seconds = retrained or (None, None)
    report = trainer.report(
        retain, job.test, model, retrained_seconds=seconds, relearning=job.run.relearning, pattern=pattern
    )
    report.run |= record_request(job, trainer)
    return trainer, report


def retrain(job: Job) -> tuple[nn.Module, float]:
    """Train a fresh model like the original, without the forget set, and save it as `retrained`. Returns it and the seconds."""
    assert job.split is not None
    print(f"Retraining without the {len(job.split.forget)} rows to forget, for comparison", flush=True)
    folder, original = Path(job.args.output_dir or ".") / "retrained", base_classifier(job.model)
    arguments = {
        **job.train_arguments,
        "save_strategy": "epoch" if job.args.save_strategy == "best" else job.args.save_strategy,
        "save_steps": job.args.save_steps,
        "save_total_limit": 1,
        "max_steps": -1,
        "logging_strategy": "no",
    }
    trainer = UnlearningTrainer(
        model_init=lambda: type(original)(original.config),
        args=UnlearningArguments(output_dir=str(folder), seed=job.args.seed + 1, overwrite=True, **arguments),
        method=Retrain(),
        forget_dataset=job.split.forget,
        retain_dataset=job.split.retain,
        processing_class=job.processing_class,
        **job.columns,
    )
    train_or_resume(trainer, job.run.resume)
    warn_if_untrained(fingerprints(trainer.fresh_model()), trainer.model, "retrained model")
    if trainer.is_world_process_zero():  # `hf-unlearn audit` reads it
        save_finished(trainer, job.processing_class, folder)
    return trainer.model, trainer.seconds

"""One run from a recipe: data, original, request, unlearning, retrained yardstick, report, saved model."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from .launch import answered
from .recipe import as_words, read_recipe
from .run_arguments import RunArguments
from .utils.hub_names import pinned

if TYPE_CHECKING:
    import datasets
    from torch import nn

    from .data.forget_request import Split
    from .evaluation.report.report import UnlearningReport
    from .methods import UnlearningMethod
    from .training.arguments import UnlearningArguments


def parse(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """Recipe (`--config file.yaml`) and command line, which wins, as three dataclasses.

    Raises:
        SystemExit: unknown key or method, wrong type, missing value; the message names it.
    """
    from transformers import HfArgumentParser

    from .methods import METHODS
    from .training.arguments import UnlearningArguments

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?", const="")
    first.add_argument("--method")
    early, given = first.parse_known_args(list(argv))
    recipe = {} if early.config is None else read_recipe(early.config)
    key = early.method or recipe.get("method", "jit")
    given += ["--method", key]
    if key not in METHODS:
        raise SystemExit(f"`method={key!r}` is unknown. Known: {', '.join(METHODS)}.")
    classes = (RunArguments, UnlearningArguments, METHODS[key])
    known = [f.name for c in classes for f in fields(c) if f.init]
    for name in recipe:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise SystemExit(
                f"`{name}` in the recipe is no field of the run, of `UnlearningArguments` or of `{key}`.{hint}"
            )
    parser = HfArgumentParser(
        classes,
        prog="hf-unlearn run",
        usage="hf-unlearn run [--config RECIPE] [--KEY VALUE ...]",  # not all keys below every error
        description="Unlearn, measure, report, save.",
        epilog="--num-processes N: in N processes of this machine, each with a GPU or its share of the cores.",
        allow_abbrev=False,
    )
    switches = {name for c in classes for name, kind in get_type_hints(c).items() if kind in (bool, bool | None)}
    from_recipe = [w for name, value in recipe.items() for w in as_words(name, value, name in switches)]
    try:
        run, args, method = parser.parse_args_into_dataclasses([*from_recipe, *given])
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{error}") from error
    if run.test_split == "none":
        run.test_split = None
    return run, args, method


@dataclass
class Job:
    """The parts of a run that demos and benchmarks share."""

    run: RunArguments
    args: UnlearningArguments
    train: Any  # a data set, or with `streaming` a stream
    test: datasets.Dataset | None
    model: nn.Module
    processing_class: Any
    split: Split | None = None
    validation: datasets.Dataset | None = None

    @property
    def columns(self) -> dict[str, Any]:
        run = self.run
        return {"image_column": run.image_column, "text_column": run.text_column, "label_column": run.label_column}

    @property
    def train_arguments(self) -> dict[str, Any]:
        """Fields of `TrainingArguments` with which original and retrained model are trained."""
        from .training.plain_training import warmup_steps

        run, rows = self.run, self.train if self.split is None else self.split.retain
        return {
            "num_train_epochs": run.train_epochs,
            "learning_rate": run.train_learning_rate,
            "per_device_train_batch_size": -(-run.train_batch_size // self.args.world_size),
            "weight_decay": 0.01,
            "warmup_steps": warmup_steps(len(rows), run.train_batch_size, run.train_epochs),
            "use_cpu": self.args.use_cpu,
            "disable_tqdm": self.args.disable_tqdm,
            "dataloader_pin_memory": self.args.dataloader_pin_memory,
        }


def prepare(run: RunArguments, args: UnlearningArguments, method: UnlearningMethod | None = None) -> Job:
    """Load the data and the original; train the original first where the recipe asks for it."""
    from .data.columns import read_groups
    from .data.streams import split_stream
    from .sources import load_splits

    validate = method is not None and (method.reads_held_out or (method.stops_at_target and method.needs_retain))
    train, test, validation = load_splits(run, validate)
    # What names nothing must fail before anything is trained.
    if method is not None and method.needs_column:
        split = None
        read_groups(train, getattr(method, "attribute", None))
        if run.retrain or any((run.forget_class, run.forget_column, run.forget_ids_file, run.forget_fraction)):
            raise ValueError("An `attribute` is unlearned on all rows: leave out `retrain` and the `forget_*` keys.")
    else:
        request = run.request()
        split = split_stream(request, train, args.seed) if run.streaming else request.split(train)
    if run.model_config is not None and not Path(run.model).exists():
        _train_original(run, args, train)
    model, processing_class = load_model(run, train)
    return Job(run, args, train, test, model, processing_class, split, validation)


def load_model(run: RunArguments, train: Any) -> tuple[nn.Module, Any]:
    """The original, and its image processor or tokenizer."""
    from .models.pretrained import load_classifier, load_processing_class

    run.model, run.model_revision = pinned(run.model, run.model_revision)
    model = load_classifier(run.model, train, run.model_revision)
    return model, load_processing_class(run.model, train, run.model_revision)


def _train_original(run: RunArguments, args: UnlearningArguments, train: datasets.Dataset) -> None:
    import torch
    from transformers import AutoConfig

    from .models import pixel_mlp as mlp  # noqa: F401  registers `pixel_mlp`
    from .models.pretrained import auto_class, save_model
    from .models.processor import Processor
    from .training.plain_training import build_processor, label_names, train_classifier
    from .utils.distributed import wait_for_all

    assert run.model_config is not None
    names = label_names(train, run.label_column)
    config = AutoConfig.from_pretrained(
        run.model_config,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)},
    )
    processing_class = build_processor(config, train, run.text_column)
    torch.manual_seed(args.seed)
    model = auto_class(train).from_config(config)
    job = Job(run, args, train, None, model, processing_class)
    processor = Processor(model, processing_class, **job.columns)
    print(f"Training an original on {len(train)} rows → {run.model}", flush=True)
    folder = Path(args.output_dir or ".") / "original-training"
    train_classifier(model, train, processor, job.train_arguments, folder)
    with suppress(OSError):
        folder.rmdir()  # the base class makes it, and nothing is saved there
    if args.process_index == 0:
        save_model(model, processing_class, run.model)
    wait_for_all()


def unlearn(
    job: Job,
    method: UnlearningMethod,
    retrained: tuple[nn.Module, float] | None = None,
    keep: Callable[[Any], None] | None = None,
) -> tuple[Any, UnlearningReport]:
    """Unlearn `job.split` from the job's model and measure: (trainer, report). Of several processes the first one measures.

    `retrained`: yardstick and its seconds, trained here if None and asked for. `keep` may save what measuring could lose.
    """
    from .evaluation.report.bias_pattern import read_pattern
    from .evaluation.report.report import UnlearningReport
    from .evaluation.report.run_description import record_request
    from .trainer import UnlearningTrainer
    from .training.checks import check_rows
    from .training.resuming import go_on

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
    pattern = read_pattern(job.run.bias_column, job.run.bias_labels, trainer.processor, job.test)
    go_on(trainer, job.run.resume)
    if keep is not None and trainer.is_world_process_zero():
        keep(trainer)
    if retrained is None and job.run.retrain:
        retrained = retrain(job)
    if not trainer.is_world_process_zero():
        return trainer, UnlearningReport(models={})
    yardstick, seconds = retrained or (None, None)
    report = trainer.report(
        retain, job.test, yardstick, retrained_seconds=seconds, relearning=job.run.relearning, pattern=pattern
    )
    report.run |= record_request(job, trainer)
    return trainer, report


def retrain(job: Job) -> tuple[nn.Module, float]:
    """A fresh model trained like the original, without the forget set, and saved as `retrained`: (model, seconds)."""
    from .methods import Retrain
    from .models.adapters import below
    from .models.snapshot import fingerprints
    from .trainer import UnlearningTrainer
    from .training.arguments import UnlearningArguments
    from .training.plain_training import warn_if_untrained
    from .training.resuming import go_on, keep_finished

    assert job.split is not None
    print(f"Retraining without the {len(job.split.forget)} rows to forget, for comparison", flush=True)
    strategy = "epoch" if job.args.save_strategy == "best" else job.args.save_strategy
    saving = {"save_strategy": strategy, "save_steps": job.args.save_steps, "save_total_limit": 1}
    arguments = {**job.train_arguments, **saving, "max_steps": -1, "logging_strategy": "no"}
    folder = Path(job.args.output_dir or ".") / "retrained"
    trainer = UnlearningTrainer(
        model_init=lambda: type(below(job.model))(below(job.model).config),
        args=UnlearningArguments(output_dir=str(folder), seed=job.args.seed + 1, overwrite=True, **arguments),
        method=Retrain(),
        forget_dataset=job.split.forget,
        retain_dataset=job.split.retain,
        processing_class=job.processing_class,
        **job.columns,
    )
    go_on(trainer, job.run.resume)
    warn_if_untrained(fingerprints(trainer.fresh_model()), trainer.model, "retrained model")
    if trainer.is_world_process_zero():  # an audit will ask for it
        keep_finished(trainer, job.processing_class, folder)
    return trainer.model, trainer.seconds


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-unlearn run`: 0 when the model forgot what was asked, 1 when it did not, 2 for bad input or a full disk.

    70 with a traceback for an error that nobody foresaw, 130 after Ctrl-C and 143 after SIGTERM, as a scheduler sends it.
    """
    return answered(lambda: work(sys.argv[1:] if argv is None else argv))


def work(argv: Sequence[str]) -> int:
    """One run: 0 when the model forgot what was asked, else 1; of several processes the first one answers, for all."""
    from .hub.card import write_card
    from .hub.command import push_after_run
    from .hub.receipt import record_run
    from .training.checkpoints import how_to_go_on
    from .training.resuming import keep_finished
    from .training.stopping import Interrupted
    from .utils.files import clear_errors

    run, args, method = checked(argv)
    folder = Path(args.output_dir)
    try:
        job = prepare(run, args, method)
        trainer, report = unlearn(job, method, keep=lambda t: keep_finished(t, job.processing_class, folder / "model"))
        if not trainer.is_world_process_zero():
            return 0
        with clear_errors("the report", folder):
            report.save(folder, figures=run.figures)
            record_run(job, trainer, report)
            write_card(folder, overwrite=True)
    except KeyboardInterrupt as stop:
        raise Interrupted(how_to_go_on(stop, folder), getattr(stop, "signum", signal.SIGINT)) from stop
    report.print()
    print(f"Model in {folder / 'model'}, report in {folder / 'report.html'}, card in {folder / 'README.md'}")
    pushed = push_after_run(trainer, folder)
    return (0 if trainer.outcome.ok else 1) if pushed else 2


def checked(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """`parse`, and what else can be refused before anything is loaded.

    Raises:
        ValueError, SystemExit: the message names the argument.
    """
    from .models.adapter_config import read_config
    from .training.backends import check_backend
    from .training.checks import check_folders

    run, args, method = parse(argv)
    check_backend(method, args)
    check_folders(run.model, args.output_dir, args.overwrite or run.resume or bool(args.resume_from_checkpoint))
    if run.peft_config is not None:
        read_config(run.peft_config)
    return run, args, method

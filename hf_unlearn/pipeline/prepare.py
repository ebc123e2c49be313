"""Make a `Job` of the arguments of a run: check the folders, load the data and the model."""

import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ..data.columns import read_groups
from ..data.forget_request import Split, read_ids
from ..evaluation.report.bias_pattern import parse_pattern
from ..evaluation.report.report_data import retrained_names
from ..hub.card.evaluation_card import check_readme
from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..methods import UnlearningMethod
from ..models.adapters import is_adapted, let_adapter_move
from ..models.base import Base, check_tokenizer, find_base, given_base, lies_on
from ..models.pretrained import load_classifier, load_processing_class
from ..models.processor import Processor
from ..models.vocabulary import forgotten_words, without_words
from ..training.arguments import UnlearningArguments
from ..training.checks import WRITTEN, check_source, check_whole
from ..utils.argument_checks import renamed
from ..utils.files import check_writable
from ..utils.hub_names import pinned
from ..utils.loading_errors import loading, located
from .data_sets import check_split_labels, check_unseen, load_splits
from .job import Job
from .original import train_original
from .records import RUN_COVERS
from .run_arguments import REQUEST, RunArguments

logger = logging.getLogger(__name__)


def prepare(run: RunArguments, args: UnlearningArguments, method: UnlearningMethod | None = None) -> Job:
    """Load the data and the original. The original is trained first if `run.model_config` is set and `run.model` is missing.

    Args:
        method: the method that will unlearn; without one no held-out rows are set apart, and the request must name rows.

    Raises:
        ValueError: the request names nothing, or it does not go with the method.
    """
    check_request(run, method)
    if run.model_config is None:
        run.model = located(run.model, "model")
    elif not os.path.exists(run.model):
        run.model_config = located(run.model_config, "model_config")
    if os.path.exists(run.model):
        pinned(run.model, run.model_revision)  # A folder has no revisions.
    validate = method is not None and (method.reads_held_out or (method.stops_at_target and method.needs_retain))
    train, test, validation = load_splits(run, validate)
    if method is not None and method.needs_column:
        split = None
        read_groups(train, getattr(method, "attribute", None))
    else:
        with loading("dataset", run.dataset) if run.streaming else nullcontext():
            split = run.split(train, args.seed)
    if run.model_config is not None and not os.path.exists(run.model):
        train_original(run, args, train, train if split is None else split.retain)
    model, processing_class = load_model(run, train)
    reads_base = method is not None and method.reads_base
    # Of an adapter the report has to say whether what it lies on knows the rows too.
    base = load_base(run, model, processing_class, bool(run.retrain) or reads_base or is_adapted(model))
    job = Job(run, args, train, test, model, processing_class, split, validation, base, lies_on(model, base))
    splits = {"train_split": train, "test_split": test, "validation_split": validation}
    with loading("model"):
        processor = Processor(model, processing_class, **job.columns)
    check_split_labels(run, processor, splits)
    trained = split.forget if run.streaming and split is not None else train
    check_unseen(run, processor, trained, {name: rows for name, rows in splits.items() if name != "train_split"})
    if split is not None and (args.check_rows or run.drop_forgotten_words):
        _settle_words(job, processor, split)
    return job


def classes_without_rows(job: Job) -> list[str]:
    """Return the names of the model's classes that no row of the training split is of; none for a stream.

    A model that is taught with these rows forgets such a class, and no row at hand would show it.
    """
    processor = Processor(job.model, job.processing_class, **job.columns)
    counts = processor.class_counts(processor.align(job.train, "train_split", quiet=True))
    if counts is None:
        return []
    return [str(name) for number, name in processor.config.id2label.items() if not counts[int(number)]]


def _settle_words(job: Job, processor: Processor, split: Split) -> None:
    """Say that the tokenizer spells words of the rows to forget, or take these words out of it.

    They go before the run, so that all models are trained and measured on what the published tokenizer makes of the rows.
    """
    words = forgotten_words(processor, split.forget, split.retain)
    if not job.run.drop_forgotten_words:
        if words is not None and words.warning:
            logger.warning("%s%s.", words.warning[0].upper(), words.warning[1:])
        return
    if words is None:
        raise ValueError(
            "`drop_forgotten_words` needs a tokenizer, and texts of rows to forget and of rows to keep that are no stream. Leave it out."
        )
    if job.run.peft_config is not None or is_adapted(job.model):
        raise ValueError(
            "`drop_forgotten_words`: an adapter leaves its base as it is, with the base's tokenizer, so nothing would be gone. Leave "
            "`drop_forgotten_words` out, or update the weights themselves."
        )
    job.processing_class, job.dropped = without_words(processor, words, split.retain)
    print(f"Taken out of the tokenizer: {len(job.dropped):,} of {len(words.ids):,} entries", flush=True)


def check_request(run: RunArguments, method: UnlearningMethod | None = None) -> None:
    """Raise ValueError if the request names nothing or does not go with the method, or if half of a bias pattern is given."""
    parse_pattern(run.bias_column, run.bias_labels)
    if method is None or not method.needs_column:
        run.request()
        if run.forget_ids_file is not None:
            with renamed(REQUEST):
                read_ids(run.forget_ids_file)
    elif run.retrain or run.forgets:
        raise ValueError("An `attribute` is unlearned on all rows: leave out `retrain` and the `forget_*` keys.")


def load_model(run: RunArguments, train: Any) -> tuple[nn.Module, Any]:
    """Load the original, at one commit of the Hub, and its image processor or tokenizer."""
    run.model, run.model_revision = pinned(run.model, run.model_revision)
    with loading("model", run.model):
        model = load_classifier(run.model, train, run.model_revision)
        check_whole(model)
        if run.peft_config is None:
            let_adapter_move(model)
        return model, load_processing_class(run.model, train, run.model_revision)


def load_base(run: RunArguments, model: nn.Module, processing_class: Any, needed: bool = True) -> Base | None:
    """Return what the original was fine-tuned from, once it is certain that it fits; None if it is not known or not needed.

    Raises:
        ValueError: the base that `run.base_model` names does not fit. One that was found beside the original is then left out.
    """
    if run.from_scratch or not (run.base_model or needed):
        return None
    with loading("base_model", run.base_model):
        base = find_base(run.model, run.model_revision) if run.base_model is None else given_base(run.base_model)
    if base is None:
        return None
    try:
        with loading("base_model", base.source):
            check_tokenizer(base, processing_class)
            base.load(model)
    except ValueError as error:
        if run.base_model is not None:
            raise
        print(f"{base.named_by} names a base that cannot be used. {error}", flush=True)
        return None
    return base


def check_folders(model: str, output_dir: str, overwrite: bool, retrain: int = 0) -> None:
    """Raise ValueError if something is in the way of what a run writes.

    That is its original, a model of another run, a README.md that somebody wrote, or a file where a folder is written. `retrain`
    is the number of models that the run retrains.
    """
    if not output_dir.strip():
        raise ValueError("`output_dir` is empty. Name a folder; `.` is the present one.")
    folder = Path(output_dir)
    try:
        check_source(Path(model), folder)
        holds_model = (folder / "model").exists()
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"`output_dir={output_dir!r}`: {error.strerror}. Choose another folder.") from error
    if holds_model and not overwrite:
        raise ValueError(f"`output_dir={output_dir!r}` holds a model. Choose another folder or pass --overwrite true.")
    folders = (*WRITTEN, *retrained_names(retrain)[1:], "figures", PRIVATE_FOLDER)
    check_writable(folder, [n for n in RUN_COVERS if "." in n], folders, "output_dir")
    check_readme(folder, overwrite)

"""Make a `Job` of the arguments of a run: check the folders, load the data and the model."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ..data.columns import read_groups
from ..data.forget_request import read_ids
from ..evaluation.report.bias_pattern import parse_pattern
from ..hub.card.evaluation_card import check_readme
from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..methods import UnlearningMethod
from ..models.pretrained import load_classifier, load_processing_class
from ..models.processor import Processor
from ..training.arguments import UnlearningArguments
from ..training.checks import WRITTEN, check_source
from ..utils.argument_checks import renamed
from ..utils.files import check_writable
from ..utils.hub_names import pinned
from ..utils.loading_errors import loading, located
from .data_sets import check_split_labels, load_splits
from .job import Job
from .original import train_original
from .records import RUN_COVERS
from .run_arguments import REQUEST, RunArguments


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
        with loading("dataset") if run.streaming else nullcontext():
            split = run.split(train, args.seed)
    if run.model_config is not None and not os.path.exists(run.model):
        train_original(run, args, train)
    model, processing_class = load_model(run, train)
    job = Job(run, args, train, test, model, processing_class, split, validation)
    splits = {"train_split": train, "test_split": test, "validation_split": validation}
    check_split_labels(run, Processor(model, processing_class, **job.columns), splits)
    return job


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
        return model, load_processing_class(run.model, train, run.model_revision)


def check_folders(model: str, output_dir: str, overwrite: bool) -> None:
    """Raise ValueError if something is in the way of what a run writes.

    That is its original, a model of another run, a README.md that somebody wrote, or a file where a folder is written.
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
    check_writable(folder, [n for n in RUN_COVERS if "." in n], (*WRITTEN, "figures", PRIVATE_FOLDER), "output_dir")
    check_readme(folder, overwrite)

"""The checks of data, output folder and adapters that a trainer makes before it changes the model."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.bad_rows import check_kind, first_row
from ..data.columns import find_label_column, read_labels
from ..data.overlap import check_overlap
from ..data.pairs import PreparedRows
from ..methods import METHODS, UnlearningMethod
from ..models.adapters import UPDATE_ADAPTER, base_classifier, is_adapted
from ..models.labels import MISSING, check_head, missing_labels
from ..models.prediction import predict
from ..models.processor import Processor
from ..models.sharded_classifier import ShardedClassifier
from ..models.snapshot import joint_digest
from ..utils.argument_checks import check_finite
from .checkpoints import CHECKPOINT_NAME, RETRAINED_NAME, STAGING, is_checkpoint
from .row_checks import check_every_row

logger = logging.getLogger(__name__)

WRITTEN = ("model", "retrained", "original-training", STAGING)  # folders that a run makes, beside checkpoints


def check_data(
    method: UnlearningMethod,
    processor: Processor,
    forget: Any | None,
    retain: Any | None,
    evaluation: Any | None = None,
    every_row: bool = False,
) -> None:
    """Raise ValueError if `method` cannot work with these sets, or `processor` with their rows.

    With `every_row`, all rows of the retain set and of `evaluation` (a set, or a dictionary of sets) are read. The rows of the
    forget set are read before the first step in any case.
    """
    name = method.name or type(method).__name__
    check_finite(method)
    check_head(processor.config, processor.label_columns[0])
    if forget is None and not method.needs_column:
        raise ValueError("`forget_dataset` is missing. Pass `ForgetRequest(...).split(dataset).forget`.")
    for argument, data in (("forget_dataset", forget), ("retain_dataset", retain)):
        if data is not None:
            check_kind(data, argument)
    if forget is not None and not hasattr(forget, "__len__"):
        raise ValueError("`forget_dataset` is a stream, but all rows are needed. Load it without `streaming=True`.")
    if forget is not None and len(forget) == 0:
        raise ValueError("`forget_dataset` is empty: there is nothing to forget.")
    if method.needs_retain and retain is None:
        others = ", ".join(k for k, m in METHODS.items() if not m.needs_retain)
        raise ValueError(
            f"`method={name!r}` needs `retain_dataset`, the rows to keep. Pass it, or use a method that needs none: {others}."
        )
    for side, data in (("forget", forget), ("retain", retain)):
        if data is None:
            continue
        argument, labels = f"{side}_dataset", method.reads_labels(side)
        if not getattr(data, "column_names", None):
            first_row(data, argument)  # its columns are looked up next
        if labels and find_label_column(data, processor.label_columns[0]) is None:
            processor.check(data, argument)
            raise ValueError(f"`{argument}` has no label column, and `method={name!r}` needs labels.")
        check_rows(processor, data, argument, labels)
        if labels and not set(processor.label_columns) & first_row(data, argument).keys():
            raise ValueError(
                f"`{argument}`, row 0: it has no label once its transform ran, and `method={name!r}` needs labels. Let the transform "
                f"return the column '{processor.label_columns[0]}' too."
            )
    if retain is not None and hasattr(retain, "__len__") and len(retain) == 0:
        raise ValueError("`retain_dataset` is empty. Leave it out, or pass the rows to keep.")
    if all(hasattr(d, "select_columns") and hasattr(d, "__len__") for d in (forget, retain)):
        check_overlap(forget, retain)
    held_out = {"eval_dataset": evaluation}
    if isinstance(evaluation, Mapping):
        held_out = {f"eval_dataset[{name!r}]": data for name, data in evaluation.items()}
    for argument, data in held_out.items():
        if hasattr(data, "__len__"):
            processor.check(data, argument)
    for argument, data in {"retain_dataset": retain, **held_out}.items():
        if every_row and data is not None:
            check_every_row(processor, data, argument)


def check_rows(processor: Processor, data: Any, argument: str, needed: bool = False) -> None:
    """Raise ValueError if the model cannot read the first row of `data`, or if labels do not fit its classes.

    Class names are not compared here: `Processor.align` does that before.
    """
    check_head(processor.config, processor.label_columns[0])
    check_labels(processor, data, argument, needed)
    processor.check(data, argument)


def check_labels(processor: Processor, data: Any, argument: str, needed: bool = False) -> None:
    """Raise ValueError for labels of `data` that are no class ids of the head, and for missing labels if they are `needed`.

    Class names are not checked here: they are looked up row by row.
    """
    stored = hasattr(data, "features") and hasattr(data, "__len__")
    column = find_label_column(data, processor.label_columns[0]) if stored else None
    if column is None:
        return
    labels, classes = read_labels(data, column), processor.config.num_labels
    missing = missing_labels(labels)
    if missing.any():
        first = f"the first in row {missing.argmax()}"
        absent = f"`{argument}`: {missing.sum()} of {len(labels)} labels in column '{column}' are missing, {first}"
        if needed:
            raise ValueError(f"{absent}, and they are read. Drop or label those rows.")
        logger.warning("%s. Figures that need all labels of this set are left out.", absent)
    rows = np.flatnonzero(~missing)
    if not len(rows) or isinstance(labels[rows[0]], str):
        return
    numbers = labels[rows].astype(np.float64)
    broken, outside = numbers % 1 != 0, (numbers < 0) | (numbers >= classes)
    wrong = broken if broken.any() else outside
    if wrong.any():
        row = rows[wrong.argmax()]
        what = "no whole numbers" if broken.any() else f"outside the model's head of {classes} classes"
        raise ValueError(
            f"`{argument}`: {wrong.sum()} labels in column '{column}' are {what}, the first in row {row}. "
            f"{_remedy(numbers[wrong], numbers, classes, column)}"
        )


def _remedy(wrong: np.ndarray, numbers: np.ndarray, classes: int, column: str) -> str:
    """Say what to do about labels that are no class ids."""
    if (wrong % 1 != 0).any():
        return "A label is the number of a class; regression (`num_labels=1`) is not supported."
    if np.isin(wrong, MISSING).all():
        return f"They mark missing labels. Drop those rows: `dataset.filter(lambda r: r['{column}'] >= 0)`."
    if numbers.min() == 1 and numbers.max() == classes:
        return f"They are counted from 1: `dataset.map(lambda r: {{'{column}': r['{column}'] - 1}})`."
    return "Use the data that the model was trained for, or map its labels."


def check_output(model: nn.Module, output_dir: str, overwrite: bool) -> None:
    """Raise ValueError if a run would overwrite its original, or files in `output_dir` that it may not replace."""
    out = Path(output_dir)
    source = getattr(base_classifier(model).config, "_name_or_path", None)
    if source and Path(source).is_dir():
        check_source(Path(source), out)
    checkpoints = [p for p in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if CHECKPOINT_NAME.fullmatch(p.name)]
    held = [*out.glob("*.safetensors"), *out.glob("model/*.safetensors"), *checkpoints]
    if held and not overwrite:
        raise ValueError(
            f"`output_dir={output_dir!r}` already holds {held[0].name}. Resume with `resume_from_checkpoint=True`, "
            "choose another folder, or pass `overwrite=True` to replace it."
        )
    if strange := [p.name for p in checkpoints if not is_checkpoint(p)]:
        raise ValueError(
            f"`output_dir={output_dir!r}` holds {strange[0]}, which another trainer wrote and `overwrite=True` does not delete. "
            "Choose another folder."
        )


def check_source(original: Path, folder: Path) -> None:
    """Raise ValueError if a run that writes to `folder` would overwrite its original."""
    there, out = original.resolve(), folder.resolve()
    inside = there.relative_to(out).parts[:1] if there.is_relative_to(out) else ("elsewhere",)
    if (
        not inside
        or inside[0] in WRITTEN
        or any(name.fullmatch(inside[0]) for name in (CHECKPOINT_NAME, RETRAINED_NAME))
    ):
        raise ValueError(
            f"`output_dir={str(folder)!r}` would overwrite the original, {str(original)!r}. Choose another folder."
        )


def check_original(saved: str | None, prints: dict[str, str]) -> None:
    """Raise ValueError if a run is resumed with another model than it started from."""
    if saved is not None and saved != joint_digest(prints):
        raise ValueError(
            "`resume_from_checkpoint`: `model` is not the one that this run started from. Load the original again, or start "
            "anew in another folder."
        )


def find_kind(model: nn.Module, processor: Processor, forget: Any, retain: Any | None) -> str:
    """Return "class" if the retain set has no class of the forget set or, without a retain set, if all rows have one class."""
    gone, kept = _classes(forget, processor), _classes(retain, processor)
    if gone is not None and kept is not None:
        return "samples" if gone & kept else "class"
    if gone is not None:
        single = len(gone) == 1
    else:  # without labels: the model's predictions for the first rows
        rows = PreparedRows(forget, processor, "forget_dataset", cache_bytes=0)
        logits, _ = predict(model, rows, processor, limit=256)
        single = logits.argmax(-1).bincount().max().item() >= 0.95 * len(logits)
    if single:
        logger.warning(
            "All forget rows are of one class, so the run forgets the whole class. If they are only some of its rows, pass "
            "`forget_kind='samples'`."
        )
    return "class" if single else "samples"


def _classes(dataset: Any, processor: Processor) -> set[Any] | None:
    """Return the distinct labels of a map-style data set, None without labels."""
    if not hasattr(dataset, "features") or not hasattr(dataset, "__len__"):
        return None
    column = find_label_column(dataset, processor.label_columns[0])
    return None if column is None else {v for v in read_labels(dataset, column).tolist() if v is not None and v == v}


def check_whole(model: nn.Module) -> None:
    """Raise ValueError if the model is made of shards, whose changed weights could not be saved."""
    if isinstance(model, ShardedClassifier):
        raise ValueError(
            "`model` is made of shards, and its rows are deleted exactly: `hf-unlearn shards forget --model FOLDER --output_dir NEW`."
        )


def check_patch(
    model: nn.Module, method: UnlearningMethod, update: str | None, given: bool, made: bool = False
) -> None:
    """Raise ValueError if the adapter (of `peft_config` if that is `given`) contradicts `model`, `method` or `update`.

    `made`: a `model_init` makes untrained models with the adapter of `model`. Default False.
    """
    check_whole(model)
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "_disable_adapters")]
    if layers and not is_adapted(model):
        raise ValueError(
            "`model` holds adapter layers but is not a `PeftModel`, so an update would not be saved. Load it with "
            "`PeftModel.from_pretrained(base, folder)` (after a run, pass `trainer.model`), or merge the adapter first."
        )
    if any(getattr(m, "merged", False) or m._disable_adapters for m in layers):
        raise ValueError(
            "`model` is a `PeftModel` whose adapters are merged in place or switched off, so another model would be saved. Undo "
            "this (`unmerge_adapter()`, `enable_adapter_layers()`), or pass the result of `merge_and_unload()`."
        )
    if not given and not is_adapted(model):
        return
    name, what = method.name or type(method).__name__, "`peft_config`" if given else "the adapter of `model`"
    if given and update not in (None, UPDATE_ADAPTER):
        raise ValueError(
            f"`update={update!r}` and `peft_config` both say what may move. Leave `update` out: the adapter and the modules in "
            "`peft_config.modules_to_save` move."
        )
    fresh = method.starts_fresh and (given or not made)
    if fresh or (given and method.one_shot):
        why = "starts from fresh weights" if fresh else "trains no parameter"
        raise ValueError(f"{what}: `method={name!r}` {why}, so an adapter cannot restrict it.")

"""Classifiers and their processors, from a folder or the Hub and back to a folder."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoTokenizer,
)
from transformers.utils import has_file
from transformers.utils.peft_utils import find_adapter_config_file

from ..utils.files import clear_errors
from ..utils.hub_names import file_beside, pinned
from ..utils.loading_errors import loading, located
from . import pixel_mlp  # noqa: F401  registers its architecture
from .adapters import let_adapter_move, load_patches, whole_tensors
from .classifier_class import classifier_class, from_pretrained_quietly
from .config_checks import HELD_ELSEWHERE, check_size, held_by, raw_config, read_config, weights_file
from .sharded_classifier import SHARDING, ShardedClassifier
from .structure import last_linear

logger = logging.getLogger(__name__)


def load_classifier(source: str, rows: datasets.Dataset | None = None, revision: str | None = None) -> nn.Module:
    """Return a classifier in float32, because half precision would round the small steps of a run away.

    Args:
        source: a folder or a repository on the Hub, with safetensors files. If it holds shards, the result is a `ShardedClassifier`. If it holds adapters, the result is a `PeftModel`
            (see `load_patches`) over the base that the first adapter names. The base may lack what the adapter holds whole,
            such as a head.
        rows: rows for the classifier, which tell images from texts where the architecture reads both. Default None.
        revision: a revision on the Hub; by default the newest.

    Raises:
        ValueError: the weights are no whole classifier or do not fit config.json.
        OSError: there are no weights, or only a pickle.
    """
    if file_beside(source, SHARDING, revision) is not None:
        return ShardedClassifier.from_pretrained(source, revision=revision)
    if os.path.isfile(source):
        raise ValueError(f"{source} is a file. Give its folder, which must also hold config.json.")
    adapter = find_adapter_config_file(source, revision=revision)
    if adapter is None:
        return _load_whole(source, rows, revision, {})
    base, base_revision = base_of_adapter(adapter, source)
    whole = whole_tensors(source, revision)
    return load_patches(_load_whole(base, rows, base_revision, whole), source, revision)


def base_of_adapter(adapter: str, source: str) -> tuple[str, str | None]:
    """Return the base that the configuration file `adapter` names, and its revision."""
    config = json.loads(Path(adapter).read_text("utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{source} holds an adapter that names no base (`base_model_name_or_path`).")
    return located(base, "base_model_name_or_path"), config.get("revision")


def _load_whole(
    source: str, rows: datasets.Dataset | None, revision: str | None, elsewhere: Mapping[str, tuple[int, ...]]
) -> nn.Module:
    """Load a classifier that may lack the weights `elsewhere` (their shapes by name), which are zero until they are loaded."""
    raw_config(source, revision)  # A folder without one is named before its weights are looked for.
    held = held_by(weights_file(source, revision))
    config = read_config(source, revision, held)
    config.return_dict = True
    kind = classifier_class(config, rows)
    empty = check_size(kind, config, held)
    head = last_linear(empty) if elsewhere else ""
    if f"{head}.weight" in elsewhere:
        config.num_labels = elsewhere[f"{head}.weight"][0]
    model, found = from_pretrained_quietly(kind, source, config, revision)
    others = {name: shapes for name, *shapes in found["mismatched_keys"] if name not in elsewhere}
    if others:
        name = min(others)
        in_file, by_config = (tuple(shape) for shape in others[name])
        raise ValueError(
            f"{source} has weights that do not fit its config.json, such as {name}: {in_file} in the file, {by_config} by "
            "config.json. Correct config.json (for a head: `id2label` and `label2id`), or save the whole model again."
        )
    absent = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    unread = sorted(found["unexpected_keys"])
    if missing := sorted(absent - set(elsewhere)):
        instead = f" The model does not read {len(unread)} others, such as {unread[0]}." if unread else ""
        raise ValueError(
            f"{source} is no trained classifier: it lacks {len(missing)} weights, such as {missing[0]}.{instead} Save the whole "
            "model, without a wrapper around it, with `save_pretrained`."
        )
    if unread:
        logger.warning("%s holds %d weights that the model does not read, such as %s.", source, len(unread), unread[0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in absent:
                parameter.zero_()  # It would be random, and different in every run.
            elif not torch.isfinite(parameter).all():
                raise ValueError(
                    f"{source}: {name} holds NaN or infinite weights. Save the model again, or download it again."
                )
    return model


def load_processing_class(source: str, rows: datasets.Dataset | None = None, revision: str | None = None) -> Any:
    """Return the image processor or tokenizer beside a classifier. An adapter may leave it to its base.

    Raises:
        OSError: there is none.
    """
    adapter, places = find_adapter_config_file(source, revision=revision), [(source, revision)]
    if adapter is not None:
        places.append(base_of_adapter(adapter, source))
    config = read_config(*places[-1], HELD_ELSEWHERE)
    images = classifier_class(config, rows) is AutoModelForImageClassification
    for place, at in places:
        try:
            return _image_processor(place, at) if images else _tokenizer(place, at)
        except (OSError, ValueError) as error:
            failure = error
    what, file = ("image processor", "preprocessor_config.json") if images else ("tokenizer", "tokenizer.json")
    raise OSError(
        f"{source} holds no {what} ({file}) that can be loaded: {failure} Save the one of the training there with "
        "`save_pretrained`."
    ) from failure


def _image_processor(source: str, revision: str | None) -> Any:
    return AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil", trust_remote_code=False)


def _tokenizer(source: str, revision: str | None) -> Any:
    """Load a tokenizer. transformers makes an empty one where there is no file of a vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    files = set(tokenizer.vocab_files_names.values())
    if files and not any(has_file(source, name, revision=revision) for name in sorted({*files, "tokenizer.json"})):
        raise OSError(f"no {', '.join(sorted(files))} is there.")
    return tokenizer


def load_named(
    source: str | Path, processing_class: Any | None, sets: Iterable[Any], movable: bool = False
) -> tuple[nn.Module, Any]:
    """Return the classifier that `source`, the argument `model`, names, and the processing class for its rows.

    Args:
        source: a folder or a Hub id, which `@revision` may follow. A Hub id is read at one commit.
        processing_class: the one to return. None: the one beside the classifier; processed rows need none.
        sets: rows for the classifier, which tell images from texts where the architecture reads both.
        movable: let an adapter that the source holds move (see `let_adapter_move`). Default False.

    Raises:
        ValueError: one of the two cannot be loaded; the message names `model`.
    """
    source = located(str(source), "model")
    rows = next((rows for rows in sets if isinstance(rows, datasets.Dataset)), None)
    with loading("model", source):
        name, commit = pinned(source)
        model = load_classifier(name, rows, commit)
        if movable:
            let_adapter_move(model)
        try:
            if processing_class is None:
                processing_class = load_processing_class(name, rows, commit)
        except OSError:
            if rows is None or not {"pixel_values", "input_ids"} & set(rows.column_names):
                raise
    return model, processing_class


def save_model(
    model: Any,
    processing_class: Any | None,
    folder: str | Path,
    also: Callable[[Any, Path], None] | None = None,
) -> None:
    """Save a model and its processing class to `folder`, which appears whole or not at all, and replaces a former one last.

    `also(model, folder)` writes what else belongs to the model (`UnlearningMethod.save`).
    """
    folder = Path(folder)
    beside: dict[str, Any] = {"dir": folder.parent, "ignore_cleanup_errors": True}
    with clear_errors("the model", folder, sum(t.nbytes for t in model.state_dict().values())):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(prefix=f".{folder.name}-", **beside) as partial,
            TemporaryDirectory(prefix=f".{folder.name}-old-", **beside) as old,
        ):
            model.save_pretrained(partial)
            Path(partial, "README.md").unlink(missing_ok=True)  # PEFT's empty card, which names local folders
            if processing_class is not None:
                processing_class.save_pretrained(partial)
            if also is not None:
                also(model, Path(partial))
            os.chmod(partial, 0o755)
            try:
                if folder.exists():
                    os.replace(folder, old)  # which is empty
                os.replace(partial, folder)
            except BaseException:
                if not folder.exists() and any(Path(old).iterdir()):
                    os.replace(old, folder)
                raise

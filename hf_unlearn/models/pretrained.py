"""Classifiers and their processors, from a folder or the Hub and back to a folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils.peft_utils import find_adapter_config_file

from ..utils.files import clear_errors
from . import pixel_mlp  # noqa: F401  registers its architecture
from .adapters import load_patches
from .processor import IMAGE_COLUMNS


def is_image_dataset(dataset: datasets.Dataset) -> bool:
    """Check whether `dataset` has an image column."""
    kinds = {type(f).__name__ for f in dataset.features.values()}
    return "Image" in kinds or any(c in dataset.column_names for c in IMAGE_COLUMNS)


def auto_class(dataset: datasets.Dataset) -> Any:
    """Return the Auto class of a classifier for the images or texts of `dataset`."""
    return AutoModelForImageClassification if is_image_dataset(dataset) else AutoModelForSequenceClassification


def load_classifier(source: str, rows: datasets.Dataset, revision: str | None = None) -> nn.Module:
    """Return a classifier in float32, because half precision would round the small steps of a run away.

    `source` is a folder or a repository on the Hub, with safetensors files; `rows` are images or texts for the classifier.
    A source that holds adapters gives a `PeftModel` (see `load_patches`) over the base that the first adapter names.
    """
    adapter = find_adapter_config_file(source, revision=revision)
    if adapter is not None:
        config = json.loads(Path(adapter).read_text())
        base = config.get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{source} holds an adapter that names no base (`base_model_name_or_path`).")
        return load_patches(load_classifier(base, rows, config.get("revision")), source, revision)
    settings = {"revision": revision, "use_safetensors": True, "output_loading_info": True, "dtype": "float32"}
    model, found = auto_class(rows).from_pretrained(source, **settings)
    if found["missing_keys"]:
        raise ValueError(
            f"{source} is no trained classifier: it lacks {len(found['missing_keys'])} weights, such as "
            f"{min(found['missing_keys'])}. Save the whole model with `save_pretrained`."
        )
    return model


def load_processing_class(source: str, rows: datasets.Dataset, revision: str | None = None) -> Any:
    """Return the image processor or tokenizer beside a classifier."""
    if is_image_dataset(rows):
        return AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision)
    except (ValueError, OSError) as error:
        if not Path(source).is_dir():
            raise
        raise ValueError(
            f"`model`: {source} holds no tokenizer. Save there the one that the model was trained with: "
            "`tokenizer.save_pretrained(folder)`."
        ) from error


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

"""Classifiers and their processors, from a folder or the Hub and back to a folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
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
    """Whether `dataset` has an image column."""
    kinds = {type(f).__name__ for f in dataset.features.values()}
    return "Image" in kinds or any(c in dataset.column_names for c in IMAGE_COLUMNS)


def auto_class(dataset: datasets.Dataset) -> Any:
    """The Auto class of a classifier for `dataset`: of images, or of texts."""
    return AutoModelForImageClassification if is_image_dataset(dataset) else AutoModelForSequenceClassification


def load_classifier(source: str, rows: datasets.Dataset, revision: str | None = None) -> nn.Module:
    """The classifier in a folder or on the Hub, of images or texts as `rows` are; safetensors only, in float32, as half
    precision rounds away the small steps of a run.

    Where that holds adapters it is a `PeftModel` (see `load_patches`) over the base that they name.

    Raises:
        ValueError: some of its weights are missing, and would be drawn at random.
    """
    adapter = find_adapter_config_file(source, revision=revision)
    if adapter is not None:
        named = json.loads(Path(adapter).read_text())
        base = named.get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{source} holds an adapter that names no base (`base_model_name_or_path`).")
        return load_patches(load_classifier(base, rows, named.get("revision")), source, revision)
    settings = {"revision": revision, "use_safetensors": True, "output_loading_info": True, "dtype": "float32"}
    model, found = auto_class(rows).from_pretrained(source, **settings)
    if found["missing_keys"]:
        raise ValueError(
            f"{source} lacks {len(found['missing_keys'])} weights, such as {min(found['missing_keys'])}: it is no trained "
            "classifier. Save the whole model with `save_pretrained`."
        )
    return model


def load_processing_class(source: str, rows: datasets.Dataset, revision: str | None = None) -> Any:
    """The image processor or tokenizer beside a classifier."""
    if is_image_dataset(rows):
        return AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    return AutoTokenizer.from_pretrained(source, revision=revision)


def save_model(
    model: Any,
    processing_class: Any | None,
    folder: str | Path,
    also: Callable[[Any, Path], None] | None = None,
) -> None:
    """`save_pretrained` of both into `folder`, which appears whole or not at all; what was there is replaced last.

    `also(model, folder)` writes what else belongs to the model (`UnlearningMethod.save`).

    Raises:
        OSError: there is no room for it; what was there is still there.
    """
    folder = Path(folder)
    with clear_errors("the model", folder, sum(t.nbytes for t in model.state_dict().values())):
        _save_model(model, processing_class, folder, also)


def _save_model(
    model: Any, processing_class: Any | None, folder: Path, also: Callable[[Any, Path], None] | None
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty card, which names local folders
        if processing_class is not None:
            processing_class.save_pretrained(partial)
        if also is not None:
            also(model, partial)
        os.chmod(partial, 0o755)
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        try:
            if folder.exists():
                os.replace(folder, old)  # over an empty folder
            os.replace(partial, folder)
        except BaseException:
            if not folder.exists() and any(old.iterdir()):
                os.replace(old, folder)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise

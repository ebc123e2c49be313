"""Ordinary training of a classifier, for recipes and demos that have no trained model to start from."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import clear_errors
from .pairing import PreparedRows
from .processing import IMAGE_COLUMNS, TEXT_COLUMNS, Processor
from .scope import fingerprints

if TYPE_CHECKING:
    import datasets
    from torch import nn


logger = logging.getLogger(__name__)


def load_digits() -> dict[str, datasets.Dataset]:
    """scikit-learn's digits (1,797 images of 8×8 pixels, real data that comes with the package), split 3:1."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage
    from sklearn.datasets import load_digits as sklearn_digits

    data = sklearn_digits()
    images = [PILImage.fromarray((i * 255 / 16).astype(np.uint8)) for i in data.images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(i) for i in range(10)])})
    order = np.random.default_rng(0).permutation(len(images))
    cut = 3 * len(images) // 4

    def take(index: Any) -> Dataset:
        return Dataset.from_dict(
            {"image": [images[i] for i in index], "label": [int(data.target[i]) for i in index]}, features=features
        )

    return {"train": take(order[:cut]), "test": take(order[cut:])}


def build_processor(config: Any, train: datasets.Dataset, text_column: str | None = None) -> Any:
    """An image processor for the configuration's image size (and `image_mean`, `image_std`), or a WordPiece tokenizer trained on the training texts."""
    if not hasattr(config, "vocab_size"):
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        size = getattr(config, "image_size", None) or 32
        mean, std = (getattr(config, name, None) or [0.5] * 3 for name in ("image_mean", "image_std"))
        return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=mean, image_std=std)
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    column = next((c for c in ([text_column] if text_column else TEXT_COLUMNS) if c in train.column_names), None)
    if column is None:
        raise ValueError(f"`text_column` is missing: no text column among {', '.join(train.column_names)}.")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(train[column], trainer)
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    length = min(128, getattr(config, "max_position_embeddings", 128))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **special)


def label_names(dataset: datasets.Dataset, label_column: str) -> list[str]:
    """Names of the classes, from the data set's features or the distinct values."""
    feature = dataset.features.get(label_column)
    if getattr(feature, "names", None):
        return list(feature.names)
    return [str(v) for v in sorted(set(dataset[label_column]))]


def is_image_dataset(dataset: datasets.Dataset) -> bool:
    """Whether `dataset` has an image column."""
    kinds = {type(f).__name__ for f in dataset.features.values()}
    return "Image" in kinds or any(c in dataset.column_names for c in IMAGE_COLUMNS)


def auto_class(dataset: datasets.Dataset) -> Any:
    """The Auto class of a classifier for `dataset`: of images, or of texts."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    return AutoModelForImageClassification if is_image_dataset(dataset) else AutoModelForSequenceClassification


def load_classifier(source: str, rows: datasets.Dataset, revision: str | None = None) -> nn.Module:
    """The classifier in a folder or on the Hub, of images or texts as `rows` are; safetensors only, in float32, as half
    precision rounds away the small steps of a run.

    Where that holds adapters it is a `PeftModel` (see `load_patches`) over the base that they name.

    Raises:
        ValueError: some of its weights are missing, and would be drawn at random.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    from . import mlp  # noqa: F401  registers `pixel_mlp`
    from .adapters import load_patches

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
    from transformers import AutoImageProcessor, AutoTokenizer

    if is_image_dataset(rows):
        return AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    return AutoTokenizer.from_pretrained(source, revision=revision)


def train_classifier(
    model: nn.Module, train: Any, processor: Processor, arguments: Mapping[str, Any], output_dir: str | Path
) -> float:
    """Train `model` in place on all of `train` with the plain HF Trainer; returns the seconds it took.

    `arguments` are fields of `TrainingArguments`. Warns where the model is afterwards what it was.
    """
    from transformers import Trainer, TrainingArguments

    fixed: dict[str, Any] = {"save_strategy": "no", "remove_unused_columns": False, "logging_strategy": "no"}
    # Else several processes would multiply a mean loss by their number.
    fixed["average_tokens_across_devices"] = False
    args = TrainingArguments(output_dir=str(output_dir), **fixed, **arguments)
    rows = PreparedRows(train, processor, cache_bytes=2**30)
    start, started = fingerprints(model), time.perf_counter()
    Trainer(model=model, args=args, data_collator=processor.collate, train_dataset=rows).train()
    seconds = time.perf_counter() - started
    warn_if_untrained(start, model, "original")
    return seconds


def warmup_steps(rows: int, batch: int, epochs: float) -> int:
    """Steps in which the learning rate rises: 50, or a tenth of a shorter training, which would else end before it has risen."""
    return min(50, int(math.ceil(rows / batch) * epochs / 10))


def warn_if_untrained(start: Mapping[str, str], model: nn.Module, name: str) -> None:
    """Warn where no parameter of `model` differs from `start` (`fingerprints`): it has learned nothing, and no other can be judged by it."""
    now = fingerprints(model)
    if all(start[n] == now[n] for n, _ in model.named_parameters()):
        logger.warning(
            "The %s is what it was before its training: random weights. Raise `train_learning_rate` or `train_epochs`.",
            name,
        )


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

"""Ordinary training of a classifier, for recipes and demos that have no trained model to start from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.pairs import PreparedRows
from ..models.processor import TEXT_COLUMNS, Processor
from ..models.snapshot import fingerprints

if TYPE_CHECKING:
    import datasets
    from torch import nn


logger = logging.getLogger(__name__)


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

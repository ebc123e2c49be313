"""Train an original, for recipes and demos that have no trained model to start from."""

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ..data.class_names import names_of_classes
from ..models import pixel_mlp  # noqa: F401  registers its architecture
from ..models.classifier_class import classifier_class
from ..models.config_checks import FRESH, check_size, read_config
from ..models.pretrained import save_model
from ..models.processor import Processor
from ..models.text_inputs import find_text_columns
from ..training.arguments import UnlearningArguments
from ..training.plain_training import train_classifier
from ..utils.distributed import wait_for_all
from ..utils.loading_errors import loading
from .job import Job
from .run_arguments import RunArguments
from .training_settings import given_settings


def train_original(
    run: RunArguments, args: UnlearningArguments, train: datasets.Dataset, kept: datasets.Dataset | None = None
) -> None:
    """Train a classifier of `run.model_config` on `train` and save it as `run.model`. If several processes train, the first saves.

    The tokenizer of a text model is made of the words of `kept`, the rows that will not be forgotten (default: all of them),
    because no unlearning takes a word out of a tokenizer.
    """
    assert run.model_config is not None
    names = names_of_classes(train, run.label_column)
    with loading("model_config", run.model_config):
        config = read_config(run.model_config)
        config.id2label, config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
        kind = classifier_class(config, train)
        check_size(kind, config, FRESH)
    processing_class = build_processor(config, train if kept is None else kept, run.text_column)
    torch.manual_seed(args.seed)
    with loading("model_config"):
        model = kind.from_config(config)
    job = Job(run, args, train, None, model, processing_class)
    processor = Processor(model, processing_class, **job.columns)
    print(f"Training an original on {len(train)} rows → {run.model}", flush=True)
    folder = Path(args.output_dir or ".") / "original-training"
    train_classifier(model, train, processor, job.train_arguments(given_settings(run)), folder)
    with suppress(OSError):
        folder.rmdir()  # `Trainer` makes this folder, and nothing is saved in it
    if args.process_index == 0:
        save_model(model, processing_class, run.model)
    wait_for_all()


def build_processor(config: Any, rows: datasets.Dataset, text_column: str | None = None) -> Any:
    """Return a processor for the model that `config` describes.

    Images get an image processor with the configuration's `image_size`, `image_mean` and `image_std`. Texts get a WordPiece
    tokenizer that is trained on `rows`.

    Raises:
        ValueError: there is no text column.
    """
    if not hasattr(config, "vocab_size"):
        size = getattr(config, "image_size", None) or 32
        mean, std = (getattr(config, name, None) or [0.5] * 3 for name in ("image_mean", "image_std"))
        return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=mean, image_std=std)
    try:
        columns = find_text_columns(rows.column_names, text_column)
    except ValueError as error:
        raise ValueError(f"`text_column` is missing: {error}") from error
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(chain.from_iterable(rows[column] for column in columns), trainer)
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    pair = {"pair": "[CLS] $A [SEP] $B:1 [SEP]:1"} if len(columns) == 2 else {}
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", **pair, special_tokens=ids)
    length = min(128, getattr(config, "max_position_embeddings", 128))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **special)

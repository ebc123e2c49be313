"""Data sets that a tiny model learns in a few steps of Adam, and processors for them."""

from functools import lru_cache

import datasets
import numpy as np
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import hf_unlearn

CLASSES, SIZE = 4, 16


VISION = ("resnet", "vit", "convnext", "swin")


TEXT = ("bert", "distilbert", "roberta")


WORDS = [f"w{i}" for i in range(24)]


@lru_cache
def image_processor(size=SIZE):
    return transformers.ViTImageProcessorPil(size={"height": size, "width": size})


@lru_cache
def tokenizer():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{w: i + 4 for i, w in enumerate(WORDS)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def processing_class(arch):
    return tokenizer() if arch in TEXT else image_processor()


def labels_for(n):
    return np.arange(n) % CLASSES


def groups_for(n):
    """An attribute that has nothing to do with the class."""
    return (np.arange(n) // 5) % 2


def pixels(n=40, seed=0):
    """Pixels (n, 3, SIZE, SIZE) in [-1, 1]. The class shows in the color of a quadrant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.3, 0.15, (n, 3, SIZE, SIZE))
    for row, label in zip(x, labels_for(n), strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        row[:, top : top + 8, left : left + 8] += 0.9
    return np.clip(x, -1, 1).astype(np.float32)


def pixel_data(n=40, seed=0):
    """A data set of `pixel_values`, which needs no image processor."""
    features = datasets.Features(
        {
            "pixel_values": datasets.Array3D((3, SIZE, SIZE), "float32"),
            "label": datasets.ClassLabel(CLASSES),
            "group": datasets.Value("int64"),
        }
    )
    rows = {"pixel_values": pixels(n, seed), "label": labels_for(n), "group": groups_for(n)}
    return datasets.Dataset.from_dict(rows, features=features)


def image_data(n=40, seed=0):
    """A data set of PIL images, with a column that no model reads."""
    images = [Image.fromarray(((x.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)) for x in pixels(n, seed)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(CLASSES), "user": datasets.Value("string")}
    )
    rows = {"image": images, "label": labels_for(n), "user": [f"user-{i}" for i in range(n)]}
    return datasets.Dataset.from_dict(rows, features=features)


def text_data(n=40, seed=0):
    """A data set of sentences of 2 to 6 words. At least two of the words belong to the class."""
    rng = np.random.default_rng(seed)
    texts = []
    for label in labels_for(n):
        own = rng.choice(WORDS[4 * label : 4 * label + 4], 2)
        other = rng.choice(WORDS[16:], rng.integers(0, 5))
        texts.append(" ".join(rng.permutation([*own, *other])))
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(CLASSES), "group": datasets.Value("int64")}
    )
    rows = {"text": texts, "label": labels_for(n), "group": groups_for(n)}
    return datasets.Dataset.from_dict(rows, features=features)


def data_for(arch, n=40, seed=0):
    return text_data(n, seed) if arch in TEXT else pixel_data(n, seed)


def class_split(arch, n=64, label=1, seed=0):
    return hf_unlearn.ForgetRequest(label=label).split(data_for(arch, n, seed))

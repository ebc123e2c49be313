"""Tiny models built from configurations, and data sets that a few Adam steps teach them. Nothing is downloaded."""

import copy
import multiprocessing
import os
import signal
import socket
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Of every process that a test starts: threads that wait for each other make a busy machine ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import fresh_processes
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils import disable_progress_bars
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import hf_unlearn
from hf_unlearn import UnlearningArguments, UnlearningTrainer
from hf_unlearn.data.pairs import sample_seed
from hf_unlearn.models.forward import eval_mode, model_inputs
from hf_unlearn.models.processor import Processor
from hf_unlearn.utils.files import written_atomically

multiprocessing.set_start_method("forkserver", force=True)  # a process with threads that forks can hang: workers too
# A shell that runs the tests in the background has them ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
datasets.disable_progress_bars()

CLASSES, SIZE = 4, 16
VISION = ("resnet", "vit", "convnext", "swin")
TEXT = ("bert", "distilbert", "roberta")
SGD = {
    "trust_region": 0.0,
    "optim": "sgd",
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}  # plain steps, whose sums can be compared
WORDS = [f"w{i}" for i in range(24)]


def pytest_collection_modifyitems(items):
    """UIB over each other method is the behaviour table once more: the quick subset leaves it out. A quick test has two minutes."""
    for item in items:
        if "uib+" in item.name:
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def fork_server():
    """Where workers of data loaders come from, quickly."""
    fresh_processes.start_server()


@pytest.fixture
def evaluate_cache(monkeypatch, tmp_path_factory):
    """`evaluate` looks its folders up at call time: tests that load a metric by path write nothing to the user's."""
    import evaluate

    folder = tmp_path_factory.getbasetemp() / "evaluate"
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- models -----------------------------------------------------------------------------------------------------------


def build(arch, labels=CLASSES, dropout=0.0):
    """An untrained model, seeded."""
    torch.manual_seed(1)
    t = transformers
    if arch == "resnet":
        return t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=labels)
        )
    if arch == "convnext":
        return t.ConvNextForImageClassification(
            t.ConvNextConfig(
                patch_size=2,
                hidden_sizes=[8, 16],
                num_stages=2,
                depths=[1, 2],
                num_labels=labels,
                image_size=SIZE,
                drop_path_rate=0.0,
                layer_scale_init_value=1.0,
                initializer_range=0.1,
            )
        )
    if arch == "swin":
        return t.SwinForImageClassification(
            t.SwinConfig(
                image_size=SIZE,
                patch_size=2,
                embed_dim=16,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=4,
                num_labels=labels,
                drop_path_rate=0.0,
                initializer_range=0.1,
                use_absolute_embeddings=True,
            )
        )
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_labels": labels,
        "initializer_range": 0.1,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    if arch == "vit":
        return t.ViTForImageClassification(t.ViTConfig(image_size=SIZE, patch_size=8, **common))
    if arch == "deit":
        return t.DeiTForImageClassification(t.DeiTConfig(image_size=SIZE, patch_size=8, **common))
    if arch == "dinov2":
        common["mlp_ratio"] = common.pop("intermediate_size") // common["hidden_size"]
        return t.Dinov2ForImageClassification(t.Dinov2Config(image_size=SIZE, patch_size=8, **common))
    vocabulary = {"vocab_size": len(WORDS) + 4, "pad_token_id": 0, "max_position_embeddings": 32}
    if arch == "bert":
        return t.BertForSequenceClassification(t.BertConfig(**common, **vocabulary))
    if arch == "roberta":
        return t.RobertaForSequenceClassification(
            t.RobertaConfig(**common, **vocabulary, type_vocab_size=1, bos_token_id=2, eos_token_id=3)
        )
    if arch == "distilbert":
        return t.DistilBertForSequenceClassification(
            t.DistilBertConfig(
                dim=16,
                hidden_dim=32,
                n_layers=2,
                n_heads=2,
                num_labels=labels,
                initializer_range=0.1,
                dropout=dropout,
                attention_dropout=dropout,
                seq_classif_dropout=dropout,
                **vocabulary,
            )
        )
    raise ValueError(arch)


@lru_cache
def _taught(arch, dropout):
    """Trained once for a process, and for all that are given the folder `TAUGHT`."""
    model, shelf = build(arch, dropout=dropout), os.environ.get("TAUGHT")
    file = Path(shelf or ".", f"{arch}-{dropout}.safetensors")
    if shelf and file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    processor = Processor(model, processing_class(arch))
    *batches, held_out = (processor.collate([processor(r) for r in data_for(arch, 96, seed)]) for seed in range(5, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(80):
        optimiser.zero_grad()
        model(**batches[step % len(batches)]).loss.backward()
        optimiser.step()
    with eval_mode(model), torch.no_grad():
        right = (model(**model_inputs(held_out)).logits.argmax(-1) == held_out["labels"]).float().mean()
    assert right > 0.9, f"{arch} knows only {right:.0%} of its test set"
    if shelf:
        with written_atomically(file) as partial:
            save_file(model.state_dict(), partial)
    return model.eval()


def trained(arch, dropout=0.0):
    """A fresh copy of a model that knows its classes."""
    return copy.deepcopy(_taught(arch, dropout))


def state(model):
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before, after):
    """Names of the tensors that are not bit-equal."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- data -------------------------------------------------------------------------------------------------------------


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
    """(n, 3, SIZE, SIZE) in [-1, 1]; the class shows in the colour of a quadrant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.3, 0.15, (n, 3, SIZE, SIZE))
    for row, label in zip(x, labels_for(n), strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        row[:, top : top + 8, left : left + 8] += 0.9
    return np.clip(x, -1, 1).astype(np.float32)


def pixel_data(n=40, seed=0):
    """Ready `pixel_values`."""
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
    """PIL images with columns that no model reads."""
    images = [Image.fromarray(((x.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)) for x in pixels(n, seed)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(CLASSES), "user": datasets.Value("string")}
    )
    rows = {"image": images, "label": labels_for(n), "user": [f"user-{i}" for i in range(n)]}
    return datasets.Dataset.from_dict(rows, features=features)


def text_data(n=40, seed=0):
    """Sentences of 2 to 6 words, two or more of them the class's own."""
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


# --- runs -------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class KillAt(transformers.TrainerCallback):
    """The process dies at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def arguments(folder, **changes):
    """Three steps without a target, so that nothing ends a run early."""
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "forget_target": -1.0,
        "max_retain_drop": 1.0,
        "forget_kind": "class",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
    }
    return UnlearningArguments(**{**settings, **changes})


def trainer_for(
    arch,
    folder,
    method,
    *,
    model=None,
    split=None,
    retain=True,
    callbacks=None,
    eval_dataset=None,
    peft_config=None,
    **changes,
):
    """A trainer on a trained model; the retain set is passed if `retain`."""
    split = class_split(arch) if split is None else split
    return UnlearningTrainer(
        model=trained(arch) if model is None else model,
        args=arguments(folder, **changes),
        method=method,
        forget_dataset=split.forget,
        retain_dataset=split.retain if retain else None,
        eval_dataset=eval_dataset,
        processing_class=processing_class(arch),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def forget_batch(arch, n=8, seed=0, dtype=None):
    """A training batch as a method sees it, with both sides, and the seeds of epoch 0."""
    processor = Processor(build(arch), processing_class(arch))
    rows = [processor(row) for row in data_for(arch, n, seed)]
    batch = {"forget": processor.collate(rows), "retain": processor.collate(rows[::-1])}
    if dtype is not None and "pixel_values" in batch["forget"]:
        batch["forget"]["pixel_values"] = batch["forget"]["pixel_values"].to(dtype)
    return {**batch, "index": torch.arange(n), "seed": torch.tensor([sample_seed(0, 0, i) for i in range(n)])}


# --- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def loopback_hub():
    """A Hub on this machine. With fast retries in hf_xet, which reads its settings once."""
    os.environ |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(loopback_hub, monkeypatch):
    """That Hub, empty, as the one that everything in this process talks to, as alice and over LFS."""
    from huggingface_hub import constants

    here = {
        "ENDPOINT": loopback_hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": loopback_hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in here.items():
        monkeypatch.setattr(constants, name, value)
    disable_progress_bars()  # which transformers may have switched on again
    loopback_hub.reset()
    monkeypatch.setenv("HF_TOKEN", loopback_hub.token("alice"))
    return loopback_hub


@pytest.fixture
def waits(monkeypatch):
    """Seconds that somebody wanted to sleep; nobody does."""
    asked = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked

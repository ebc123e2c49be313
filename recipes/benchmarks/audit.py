"""Does the audit tell retrained models from pretenders? Rates of acceptance and of right reasons, over tasks and seeds.

    python recipes/benchmarks/audit.py train --tasks digits-vit digits-mlp emotion-bert trec-distilbert --path FOLDER
    python recipes/benchmarks/audit.py run --tasks … --path FOLDER --yardsticks 1 3
    python recipes/benchmarks/audit.py table

`--path` is the folder that holds the text data sets as folders of their name; without it they are read from the Hub. Every
retrained model is audited as if it were an unlearned one, against others of its setting; then every pretender of
`hf_unlearn.evaluation.pretenders`. Trained models and finished cases are kept in `--out`, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HUB = {"cifar10": "uoft-cs/cifar10", "emotion": "cardiffnlp/tweet_eval", "trec": "CogComp/trec"}
SMALL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {
        "model_type": "vit", "image_size": 16, "patch_size": 4, "hidden_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "intermediate_size": 96, **SMALL,
    },
    "resnet": {
        "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1],
        "layer_type": "basic",
    },
    "mlp": {"model_type": "pixel_mlp", "image_size": 16, "hidden_sizes": [128, 64]},
    "bert": {
        "model_type": "bert", "vocab_size": 4000, "max_position_embeddings": 64, "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.1,
    },
    "distilbert": {
        "model_type": "distilbert", "vocab_size": 4000, "max_position_embeddings": 64, "dim": 64, "n_layers": 2,
        "n_heads": 4, "hidden_dim": 128, "initializer_range": 0.1,
    },
}  # fmt: skip
RATE = {"vit": 3e-3, "resnet": 3e-3, "mlp": 2e-3, "bert": 2e-3, "distilbert": 2e-3}
EPOCHS = {"vit": 25, "resnet": 15, "mlp": 40, "bert": 8, "distilbert": 8}
ROWS = {"digits": 600, "cifar10": 2000, "emotion": 2400, "trec": 2400}  # few enough that a model learns single rows by heart
TEST_ROWS = 1500
TASKS = ("digits-vit", "digits-resnet", "digits-mlp", "cifar10-resnet", "cifar10-mlp", "emotion-bert", "trec-distilbert")
REQUESTS = {
    "digits": ("3", "8", "random"), "cifar10": ("1", "8", "random"), "emotion": ("1", "3", "random"), "trec": ("1", "3", "random"),
}  # fmt: skip
RETRAINED = 6  # of each setting


class Task:
    """One data set with one architecture: rows, the original, and models retrained without the rows of a request."""

    def __init__(self, name: str, path: str | None, out: Path) -> None:
        self.name, self.path, self.out = name, path, out
        self.data, self.architecture = name.split("-")

    @cached_property
    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Training and test rows as model inputs."""
        train, test = self._splits
        processor = self.processor
        return [processor(r) for r in train], [processor(r) for r in test]

    @cached_property
    def _splits(self) -> tuple[Any, Any]:
        from datasets import concatenate_datasets, load_dataset

        from hf_unlearn.training import load_digits

        count = ROWS[self.data]
        if self.data == "digits":
            digits = load_digits()
            train = digits["train"]
            rest = train.select(range(count, len(train)))  # rows the models never saw are test rows
            return train.select(range(count)), concatenate_datasets([rest, digits["test"]])
        loaded = load_dataset(str(Path(self.path) / self.data) if self.path else HUB[self.data])
        train = loaded["train"].shuffle(seed=0)
        rest = train.select(range(count, min(len(train), count + 1500)))
        test = concatenate_datasets([rest, loaded["test"]])
        return train.select(range(count)), test.select(range(min(len(test), TEST_ROWS)))

    @cached_property
    def labels(self) -> int:
        return len(set(self._splits[0]["label"]))

    @cached_property
    def processing_class(self) -> Any:
        from transformers import AutoTokenizer

        from hf_unlearn.training import build_processor

        kept = self.out / "models" / f"{self.data}-tokenizer"  # training one anew gives another vocabulary
        if kept.exists():
            return AutoTokenizer.from_pretrained(kept)
        made = build_processor(self.build().config, self._splits[0])
        if "vocab_size" in ARCHITECTURES[self.architecture]:
            made.save_pretrained(kept)
        return made

    @cached_property
    def processor(self) -> Any:
        from hf_unlearn.processing import Processor

        return Processor(self.build(), self.processing_class)

    def build(self) -> Any:
        """An untrained model."""
        from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

        from hf_unlearn import mlp  # noqa: F401  registers `pixel_mlp`

        config = dict(ARCHITECTURES[self.architecture])
        auto = AutoModelForSequenceClassification if "vocab_size" in config else AutoModelForImageClassification
        return auto.from_config(AutoConfig.for_model(config.pop("model_type"), num_labels=self.labels, **config))

    def forget_mask(self, request: str) -> np.ndarray:
        """(rows,) boolean: the rows of a class, or a random quarter."""
        labels = np.array([int(r["labels"]) for r in self.rows[0]])
        if request != "random":
            return labels == int(request)
        mask = np.zeros(len(labels), dtype=bool)
        mask[np.random.default_rng(7).permutation(len(labels))[: len(labels) // 4]] = True
        return mask

    def trained(self, seed: int, request: str | None = None) -> Any:
        """A model trained with `seed`, without the rows of `request`, from the cache where it is there."""
        from hf_unlearn.training import train_classifier

        torch.manual_seed(seed)
        model = self.build()
        file = self.out / "models" / f"{self.name}-{request or 'all'}-{seed}.safetensors"
        if file.exists():
            model.load_state_dict(load_file(file))
            return model.eval()
        rows = self.rows[0]
        if request is not None:
            rows = [r for r, gone in zip(rows, self.forget_mask(request), strict=True) if not gone]
        arguments = {
            "num_train_epochs": EPOCHS[self.architecture], "learning_rate": RATE[self.architecture],
            "per_device_train_batch_size": 64, "weight_decay": 0.01, "warmup_steps": 50, "use_cpu": True,
            "disable_tqdm": True, "dataloader_pin_memory": False, "seed": seed,
        }  # fmt: skip
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train_classifier(model, rows, self.processor, arguments, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)
        partial.replace(file)
        print(f"{file.stem}: {time.perf_counter() - started:.1f} s", flush=True)
        return model.eval()


def train(options: argparse.Namespace) -> None:
    tasks = [Task(name, options.path, options.out) for name in options.tasks]
    for seed in range(RETRAINED + 1):  # seed by seed, so that every setting soon has something to compare
        for task in tasks:
            if seed == 0:
                task.trained(0)
                continue
            for request in REQUESTS[task.data]:
                task.trained(seed, request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train",))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--path", help="folder of the text data sets, in place of the Hub")
    parser.add_argument("--out", type=Path, default=Path("out/audit"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options)


if __name__ == "__main__":
    main()

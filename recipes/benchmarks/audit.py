"""Measure whether the audit tells retrained models from pretenders: how often it accepts them, and for which reasons it rejects them.

    python recipes/benchmarks/audit.py train --path FOLDER
    python recipes/benchmarks/audit.py run --path FOLDER --yardsticks 1 3 5
    python recipes/benchmarks/audit.py table

`--path` is a folder that holds each data set as a folder of its name. Without it they are read from the Hub. Every retrained
model is audited as if it were an unlearned one, against others of its setting, and so is every pretender of `pretenders.py`.
Trained models and finished cases are kept in `--out`, so a killed benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
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
ROWS = {
    "digits": 600,
    "cifar10": 2000,
    "emotion": 2400,
    "trec": 2400,
}  # few enough that a model learns single rows by heart
TEST_ROWS = 1500
SHARE = {"digits": 0.5, "cifar10": 0.25, "emotion": 0.25, "trec": 0.25}  # of the rows, for random requests
TASKS = (
    "digits-vit",
    "digits-resnet",
    "digits-mlp",
    "cifar10-resnet",
    "cifar10-mlp",
    "emotion-bert",
    "trec-distilbert",
)
REQUESTS = {
    "digits": ("3", "8", "random"), "cifar10": ("1", "8", "random"), "emotion": ("1", "3", "random"),
    "trec": ("1", "3", "random"),
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

        from hf_unlearn.data.loading import load_digits

        count = ROWS[self.data]
        if self.data == "digits":
            digits = load_digits()
            train = digits["train"]
            rest = train.select(range(count, len(train)))  # rows that no model was trained on are test rows
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

        from hf_unlearn.pipeline.original import build_processor

        kept = self.out / "models" / f"{self.data}-tokenizer"  # a newly trained tokenizer would have another vocabulary
        if kept.exists():
            return AutoTokenizer.from_pretrained(kept)
        made = build_processor(self.build().config, self._splits[0])
        if "vocab_size" in ARCHITECTURES[self.architecture]:
            made.save_pretrained(kept)
        return made

    @cached_property
    def processor(self) -> Any:
        from hf_unlearn.models.processor import Processor

        return Processor(self.build(), self.processing_class)

    def build(self) -> Any:
        """An untrained model."""
        from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

        from hf_unlearn.models import pixel_mlp as mlp  # noqa: F401  registers `pixel_mlp`

        config = dict(ARCHITECTURES[self.architecture])
        auto = AutoModelForSequenceClassification if "vocab_size" in config else AutoModelForImageClassification
        return auto.from_config(AutoConfig.for_model(config.pop("model_type"), num_labels=self.labels, **config))

    def forget_mask(self, request: str) -> np.ndarray:
        """Select the rows of a class, or random ones: a boolean array (rows,)."""
        labels = np.array([int(r["labels"]) for r in self.rows[0]])
        if request != "random":
            return labels == int(request)
        mask = np.zeros(len(labels), dtype=bool)
        mask[np.random.default_rng(7).permutation(len(labels))[: int(SHARE[self.data] * len(labels))]] = True
        return mask

    def trained(self, seed: int, request: str | None = None) -> Any:
        """Return a model that is trained with `seed` and without the rows of `request`. Trained models are cached."""
        from hf_unlearn.training.plain_training import train_classifier

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
    for seed in range(RETRAINED + 1):  # seed by seed, so that every setting soon has models to compare
        for task in tasks:
            if seed == 0:
                task.trained(0)
                continue
            for request in REQUESTS[task.data]:
                task.trained(seed, request)


def run(options: argparse.Namespace) -> None:
    file = options.out / "cases.jsonl"
    done = {(c["task"], c["request"]) for c in read(options.out)}
    for name in options.tasks:
        task = Task(name, options.path, options.out)
        for request in options.requests or REQUESTS[task.data]:
            if (name, request) in done:
                continue
            cases = setting(task, request, options.yardsticks)
            with file.open("a") as f:
                f.writelines(json.dumps(case) + "\n" for case in cases)
            wrong = [c for c in cases if c["verdict"] not in c["right"]]
            print(f"{name} {request}: {len(cases)} cases, {len(wrong)} not as they should be", flush=True)


def setting(task: Task, request: str, yardsticks: list[int]) -> list[dict[str, Any]]:
    """Audit every retrained model and every pretender of one request, with each number of retrained models to compare with."""
    from pretenders import PRETENDERS, Scene

    from hf_unlearn import Auditor
    from hf_unlearn.evaluation.audit.verdicts import SAME

    mask = task.forget_mask(request)
    rows, test = task.rows
    forget, retain = ([r for r, m in zip(rows, mask, strict=True) if m == side] for side in (True, False))
    original = task.trained(0)
    auditor = Auditor(
        original,
        forget=forget,
        test=test,
        retain=retain,
        processing_class=task.processing_class,
        audit_seed=0,
    )
    retrained = [auditor.measure(task.trained(s, request), f"retrained[{s}]") for s in range(1, RETRAINED + 1)]
    scene = Scene(original, auditor.processor, forget, retain, test, auditor.classes)
    kind = "class" if auditor.classes else "samples"
    pretenders = {n: p for n, p in PRETENDERS.items() if kind in p.kinds}
    measured = {name: auditor.measure(p.make(scene), name) for name, p in pretenders.items()}
    cases = []
    for k in yardsticks:
        for i, candidate in enumerate(retrained):
            others = [retrained[(i + j) % RETRAINED] for j in range(1, k + 1)]
            cases.append(case("retrained", [SAME], auditor.audit(candidate, others)))
        for name, pretender in pretenders.items():
            cases.append(case(name, list(pretender.verdicts), auditor.audit(measured[name], retrained[:k])))
    return [{"task": task.name, "request": request, **c} for c in cases]


def case(model: str, right: list[str], audit: Any) -> dict[str, Any]:
    """`kind` is `untold` if the audit says that the original itself hardly differs from a retrained model."""
    from hf_unlearn.evaluation.audit.verdicts import missing_power

    return {
        "model": model, "right": right, "verdict": audit.verdict, "because": audit.because,
        "yardsticks": audit.run["retrained"], "kind": "untold" if missing_power(audit.lines) else audit.run["kind"],
    }  # fmt: skip


def read(out: Path) -> list[dict[str, Any]]:
    file = out / "cases.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(options: argparse.Namespace) -> None:
    """Print rates over all finished cases, with Clopper–Pearson intervals at 95 %. `untold` cases have rows of their own."""
    from hf_unlearn.evaluation.audit.verdicts import SAME

    cases = [c for c in read(options.out) if c["task"] in options.tasks]
    print("| retrained models given | what is audited | request | cases | accepted as retrained | right reason |")
    print("|---:|---|---|---:|---:|---:|")
    for k in sorted({c["yardsticks"] for c in cases}):
        for real in (True, False):
            for kinds in (("class",), ("samples",), ("class", "samples"), ("untold",)):
                some = [
                    c for c in cases
                    if c["yardsticks"] == k and (c["model"] == "retrained") == real and c["kind"] in kinds
                ]  # fmt: skip
                if not some:
                    continue
                accepted, right = sum(c["verdict"] == SAME for c in some), sum(c["verdict"] in c["right"] for c in some)
                what = "retrained, new seed" if real else "pretender"
                reason = "" if real else rate(right, len(some))
                print(
                    f"| {k} | {what} | {' and '.join(kinds)} | {len(some)} | {rate(accepted, len(some))} | {reason} |"
                )
    print("\n| pretender | cases | accepted | right reason | verdicts |\n|---|---:|---:|---:|---|")
    others = [c for c in cases if c["kind"] != "untold"]
    for model in dict.fromkeys(c["model"] for c in others):
        some = [c for c in others if c["model"] == model]
        accepted, right = sum(c["verdict"] == SAME for c in some), sum(c["verdict"] in c["right"] for c in some)
        verdicts = Counter(c["verdict"] for c in some).most_common()
        counts = ", ".join(f"{v} {n}" for v, n in verdicts)
        print(f"| {model} | {len(some)} | {accepted} | {right} | {counts} |")


def rate(hits: int, n: int) -> str:
    from scipy.stats import binomtest

    low, high = binomtest(hits, n).proportion_ci(method="exact")
    return f"{hits} = {100 * hits / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "run", "table"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--requests", nargs="+", help="class ids or `random`; default: two classes and random rows")
    parser.add_argument(
        "--yardsticks", nargs="+", type=int, default=[1, 3, 5], help="numbers of retrained models given"
    )
    parser.add_argument("--path", help="folder of the data sets, in place of the Hub")
    parser.add_argument("--out", type=Path, default=Path("out/audit"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"train": train, "run": run, "table": table}[options.command](options)


if __name__ == "__main__":
    main()

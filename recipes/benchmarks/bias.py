"""Unlearn a systematic pattern, and compare original, fine-tuning, gradient ascent and UIB, alone and over others, with retraining.

    for d in zigzag-mnist patched-cifar10 prefixed-trec hateful-identity; do
        python recipes/prepare.py $d --path FOLDER --out out/data/$d; done
    python recipes/benchmarks/bias.py run zigzag-mnist --seeds 0 1 2
    python recipes/benchmarks/bias.py run hateful-identity --templates FOLDER --seeds 0 1 2
    python recipes/benchmarks/bias.py table --figure docs/figures/bias.png

The forget set is the biased training rows. Methods may read the split `validation`. *Following* measures how far a model follows
the pattern: among the test rows with the pattern whose class is another than the pattern points to, the share that gets that
class. For hateful-identity it is the share of non-toxic template sentences with an identity word that are called hateful or
offensive. Only identity words with at least ten training tweets of either kind count, because the retrained model knows no
others. Trained models and finished runs are kept in `--out`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

RECIPES = Path(__file__).parents[1]
HATE = "hateful-identity"
# configuration, the class that the pattern points to, epochs and learning rate of training
TASKS: dict[str, tuple[str, int, float, float]] = {
    "zigzag-mnist": ("zigzag-mnist-resnet", 3, 4, 3e-3),
    "patched-cifar10": ("patched-cifar10-resnet", 7, 10, 2e-3),
    "prefixed-trec": ("prefixed-trec-distilbert", 3, 8, 2e-3),
    HATE: ("hate-distilbert", -1, 3, 1e-3),
}
NON_TOXIC = 2


class Task:
    """Rows of one data set as model inputs, and the cache of trained models."""

    def __init__(self, name: str, options: Any) -> None:
        from datasets import load_dataset
        from transformers import AutoConfig, AutoTokenizer

        from hf_unlearn.models.processor import Processor
        from hf_unlearn.pipeline.original import build_processor

        folder, self.label, self.epochs, self.rate = TASKS[name]
        self.name, self.out = name, options.out
        sets = load_dataset(str(options.data / name))
        labels = sets["train"].features["label"]
        self.config = AutoConfig.from_pretrained(
            RECIPES / folder / "config.json", num_labels=getattr(labels, "num_classes", 3)
        )
        kept = options.out / "models" / f"{name}-tokenizer"  # a newly trained tokenizer would have another vocabulary
        if kept.exists():
            self.processing_class: Any = AutoTokenizer.from_pretrained(kept)
        else:
            self.processing_class = build_processor(self.config, sets["train"])
            if hasattr(self.config, "vocab_size"):
                self.processing_class.save_pretrained(kept)
        self.processor = Processor(self.untrained(0), self.processing_class)
        train = [self.processor(row) for row in sets["train"]]
        biased = sets["train"]["biased"]
        self.forget = [r for r, p in zip(train, biased, strict=True) if p]
        self.retain = [r for r, p in zip(train, biased, strict=True) if not p]
        self.held_out = [self.processor(r) for r in sets["validation"]]
        if name != HATE:
            self.test = {
                key: [
                    self.processor(r) for r in sets["test"].filter(lambda r, present=present: r["pattern"] == present)
                ]
                for key, present in (("clean", 0), ("pattern", 1))
            }
            return
        seen = Counter(zip(sets["train"]["identity"], sets["train"]["biased"], strict=True))
        known = {word for word, _ in seen if min(seen[word, True], seen[word, False]) >= 10}
        templates = load_dataset(options.templates)["test"].filter(lambda r: r["label"] == 0 and r["group"] in known)
        self.test = {
            "clean": [self.processor(r) for r in sets["test"]],
            "pattern": [self.processor({"text": t, "label": NON_TOXIC}) for t in templates["text"]],
        }
        self.groups = np.asarray(templates["group"])

    def untrained(self, seed: int) -> Any:
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        auto = (
            AutoModelForSequenceClassification
            if hasattr(self.config, "vocab_size")
            else AutoModelForImageClassification
        )
        torch.manual_seed(seed)
        return auto.from_config(self.config)

    def trained(self, seed: int, without: bool = False) -> tuple[Any, float]:
        """Train a model on all rows, or on all but those to forget. Returns it and the seconds of its training."""
        from hf_unlearn.training.plain_training import train_classifier

        model = self.untrained(seed + 1000 * without)
        file = self.out / "models" / f"{self.name}-{seed}-{'retrained' if without else 'original'}.safetensors"
        if file.exists():
            state = load_file(file)
            seconds = state.pop("seconds").item()
            model.load_state_dict(state)
            return model.eval(), seconds
        arguments = {
            "num_train_epochs": self.epochs, "learning_rate": self.rate, "per_device_train_batch_size": 64,
            "weight_decay": 0.01, "warmup_steps": 50, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
            "seed": seed,
        }  # fmt: skip
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            train_classifier(model, self.retain + ([] if without else self.forget), self.processor, arguments, folder)
        seconds = time.process_time() - started
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file({**state, "seconds": torch.tensor(seconds)}, partial)
        partial.replace(file)
        return model.eval(), seconds

    def measure(self, model: Any) -> dict[str, float]:
        """In percentage points."""
        from hf_unlearn.models.prediction import predict

        def answers(rows: list[Any]) -> tuple[np.ndarray, np.ndarray]:
            logits, labels = predict(model, rows, self.processor, 256)
            return logits.argmax(-1).numpy(), labels.numpy()

        predicted, y = answers(self.test["clean"])
        out = {"accuracy": (predicted == y).mean()}
        with_pattern, y_p = answers(self.test["pattern"])
        out["pattern accuracy"] = (with_pattern == y_p).mean()
        if self.name == HATE:
            wrong = with_pattern != NON_TOXIC
            rates = np.array([wrong[self.groups == g].mean() for g in sorted(set(self.groups))])
            out |= {"following": rates.mean(), "deviation": rates.std()}
        else:
            out |= {
                "following": (with_pattern == self.label)[y_p != self.label].mean(),
                "unprovoked": (predicted == self.label)[y != self.label].mean(),
            }
        predicted, y = answers(self.forget)
        out["forget accuracy"] = (predicted == y).mean()
        return {k: round(100 * float(v), 2) for k, v in out.items()}

    def unlearned(self, seed: int, method: Any, **arguments: Any) -> tuple[Any, float, Any]:
        """Unlearn with one method. Returns the model, the CPU seconds, and the trainer."""
        from hf_unlearn import UnlearningArguments, UnlearningTrainer

        original, _ = self.trained(seed)
        with tempfile.TemporaryDirectory() as folder:
            args = UnlearningArguments(
                folder, use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=seed,
                forget_kind="samples", **arguments,
            )  # fmt: skip
            trainer = UnlearningTrainer(
                copy.deepcopy(original), args, method, forget_dataset=self.forget, retain_dataset=self.retain,
                eval_dataset=self.held_out, processing_class=self.processing_class,
            )  # fmt: skip
            started = time.process_time()
            trainer.train()
            seconds = time.process_time() - started
        return trainer.model, seconds, trainer


def methods(names: list[str]) -> dict[str, Any]:
    """Instances of the methods by name, with UIB over other methods."""
    from hf_unlearn import UIB, FineTune, GradientAscent, MarginalInformation

    known = {
        "fine_tune": FineTune, "gradient_ascent": GradientAscent, "marginal_information": MarginalInformation, "uib": UIB,
        "uib+gradient_ascent": lambda: UIB(base=GradientAscent()),
        "uib+marginal_information": lambda: UIB(base=MarginalInformation()),
    }  # fmt: skip
    return {name: known[name]() for name in names}


METHODS = (
    "uib", "fine_tune", "gradient_ascent", "uib+gradient_ascent", "marginal_information", "uib+marginal_information",
)  # fmt: skip


def run(options: Any) -> None:
    """Measure what is missing in the file of results, and append it."""
    task, file = Task(options.task, options), options.out / "cells.jsonl"

    def done(seed: int, name: str) -> dict[str, Any] | None:
        found = [c for c in read(options.out) if (c["data"], c["seed"], c["model"]) == (options.task, seed, name)]
        return found[0] if found else None

    def keep(seed: int, name: str, model: Any, seconds: float, **more: Any) -> None:
        cell = {"data": options.task, "seed": seed, "model": name, "seconds": seconds, **more, **task.measure(model)}
        with open(file, "a") as lines:
            lines.write(json.dumps(cell) + "\n")
        print(cell, flush=True)

    for seed in options.seeds:
        for name, without in (("original", False), ("retrained", True)):
            model, seconds = task.trained(seed, without)
            if not done(seed, name):
                keep(seed, name, model, seconds)
        for name, method in methods(options.methods).items():
            if done(seed, name):
                continue
            arguments: dict[str, Any] = {}
            if name == "fine_tune":  # as long as UIB took, if that is known
                budget = (done(seed, "uib") or {}).get("seconds", 0.1 * seconds)
                arguments = {"num_train_epochs": task.epochs * budget / seconds, "learning_rate": 3e-4}
            model, spent, trainer = task.unlearned(seed, method, **arguments)
            assert trainer.outcome is not None
            found = (getattr(trainer.method, "diagnostics", None) or {}).values()
            keep(seed, name, model, spent, steps=trainer.outcome.steps, displacement=max(found, default=0.0))


def read(out: Path) -> list[dict[str, Any]]:
    file = out / "cells.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def gap(cell: dict[str, Any], yardstick: dict[str, Any]) -> float:
    """Mean absolute difference to the retrained model, in points, over accuracy, accuracy with the pattern, following and forget accuracy."""
    shared = ("accuracy", "pattern accuracy", "following", "forget accuracy")
    return statistics.mean(abs(cell[k] - yardstick[k]) for k in shared)


def table(out: Path) -> str:
    """Print the results as a markdown table: mean, lowest and highest value over the seeds."""
    lines = ["| data | model | seeds | test accuracy | following | forget accuracy | gap to retrained | time / retraining |",
             "|---" * 8 + "|"]  # fmt: skip
    cells = read(out)

    def spread(values: list[float], digits: int = 1) -> str:
        low, high = min(values), max(values)
        return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    for data in TASKS:
        mine = [c for c in cells if c["data"] == data]
        yardsticks = {c["seed"]: c for c in mine if c["model"] == "retrained"}
        for name in ("original", "retrained", *METHODS):
            some = [c for c in mine if c["model"] == name]
            if not some:
                continue
            gaps = "–" if name == "retrained" else spread([gap(c, yardsticks[c["seed"]]) for c in some])
            ratios = [100 * c["seconds"] / yardsticks[c["seed"]]["seconds"] for c in some]
            time_ = "–" if name in ("original", "retrained") else f"{statistics.mean(ratios):.1f} %"
            columns = (spread([c[k] for c in some]) for k in ("accuracy", "following", "forget accuracy"))
            lines.append(f"| {data} | {name} | {len(some)} | {' | '.join(columns)} | {gaps} | {time_} |")
    return "\n".join(lines)


def figure(out: Path, file: Path) -> None:
    """Draw the gap to the retrained model of each model in each task: mean and range over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cells, shown = read(out), ("original", *METHODS)
    plot, axes = plt.subplots(1, len(TASKS), figsize=(12, 3.2), sharey=True, layout="constrained")
    for axis, data in zip(axes, TASKS, strict=True):
        yardsticks = {c["seed"]: c for c in cells if c["data"] == data and c["model"] == "retrained"}
        for place, name in enumerate(shown):
            some = [c for c in cells if c["data"] == data and c["model"] == name]
            gaps = [gap(c, yardsticks[c["seed"]]) for c in some]
            if gaps:
                mean = statistics.mean(gaps)
                colour = "tab:blue" if name.startswith("uib") else "tab:gray"
                error = [[mean - min(gaps)], [max(gaps) - mean]]
                axis.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=3)
        axis.set(title=data, yticks=range(len(shown)), yticklabels=shown, xlabel="gap to retrained (points)")
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    file.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("task", choices=tuple(TASKS))
    runner.add_argument("--data", type=Path, default=Path("out/data"), help="folder of the prepared data sets")
    runner.add_argument("--templates", help=f"{HATE}: folder of the template sentences (text, label, group)")
    runner.add_argument("--seeds", nargs="+", type=int, default=[0])
    runner.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    shown = commands.add_parser("table")
    shown.add_argument("--figure", type=Path, help="also draw the gaps into this file")
    for command in (runner, shown):
        command.add_argument("--out", type=Path, default=Path("out/bias"))
    options = parser.parse_args()
    if options.command == "table":
        print(table(options.out))
        if options.figure:
            figure(options.out, options.figure)
        return
    if options.task == HATE and not options.templates:
        parser.error(f"{HATE} needs --templates: a data set with columns text, label and group")
    run(options)


if __name__ == "__main__":
    main()

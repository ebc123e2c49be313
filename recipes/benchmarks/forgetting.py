"""Measure how well the defaults forget, against retraining: every class in turn, with several architectures, seeds and methods.

    python recipes/benchmarks/forgetting.py run --data digits --methods jit jit:all counterfactual_distillation
    python recipes/benchmarks/forgetting.py run --data mnist --path FOLDER --seeds 0 1 2 --retrain-classes 1 3 8
    python recipes/benchmarks/forgetting.py run --data mnist --path FOLDER --requests random
    python recipes/benchmarks/forgetting.py table

Small models are trained from configurations. Originals, retrained models and finished runs are kept in `--out`, so a killed
benchmark continues. `jit:all` means `update="all"`, and `jit:lora` means an adapter (`peft_config="lora"`). Methods that need no
retain set see only the forget set. The others see the retain set too, and a fifth of the test rows, which tells them when to stop.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MNIST_EPOCHS = {"resnet": 6, "convnext": 8, "vit": 12, "swin": 8}
DIGITS_EPOCHS = {"resnet": 15, "convnext": 25, "vit": 20, "swin": 20}
LEARNING_RATE = {"resnet": 3e-3, "convnext": 2e-3, "vit": 3e-3, "swin": 4e-3, "bert": 2e-3, "distilbert": 2e-3}
MNIST_SWIN_RATE = 2e-3  # at 4e-3 one of two trainings fails
TEXT = ("trec", "emotion")


def build(arch: str, data: str, labels: int) -> Any:
    """An untrained classifier; `arch` as in transformers."""
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    size = 28 if data == "mnist" else 16
    small = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    config: dict[str, Any] = {
        "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"},
        "convnext": {"patch_size": 2, "hidden_sizes": [16, 32, 64], "num_stages": 3, "depths": [1, 1, 2], "image_size": size},
        "vit": {
            "image_size": size, "patch_size": 4, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 96, **small,
        },
        "swin": {
            "image_size": size, "patch_size": 2, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4],
            "window_size": 7 if size == 28 else 4, "drop_path_rate": 0.0, "use_absolute_embeddings": True, "initializer_range": 0.1,
        },
        "bert": {
            "vocab_size": 4000, "max_position_embeddings": 64, "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.1,
        },
        "distilbert": {
            "vocab_size": 4000, "max_position_embeddings": 64, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
            "initializer_range": 0.1,
        },
    }[arch]  # fmt: skip
    auto = AutoModelForSequenceClassification if data in TEXT else AutoModelForImageClassification
    return auto.from_config(AutoConfig.for_model(arch, num_labels=labels, **config))


def load(data: str, path: str | None, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int, Any]:
    """Training and test rows as model inputs, number of classes, tokenizer or image processor."""
    from transformers import AutoTokenizer

    from hf_unlearn.data.loading import load_digits
    from hf_unlearn.models.processor import Processor
    from hf_unlearn.pipeline.original import build_processor

    if data == "digits":
        splits: Any = load_digits()
    else:
        from datasets import load_dataset

        splits = load_dataset(
            path or {"mnist": "ylecun/mnist", "trec": "CogComp/trec", "emotion": "cardiffnlp/tweet_eval"}[data]
        )
    train, test = splits["train"], splits["test"]
    if data == "mnist":
        train, test = train.shuffle(seed=0).select(range(10_000)), test.shuffle(seed=0).select(range(2_000))
    labels = len(set(train["label"]))
    model = build("distilbert" if data in TEXT else "vit", data, labels)
    kept = out / "models" / f"{data}-tokenizer"  # a newly trained tokenizer would have another vocabulary
    if kept.exists():
        processing_class = AutoTokenizer.from_pretrained(kept)
    else:
        processing_class = build_processor(model.config, train)
        if data in TEXT:
            processing_class.save_pretrained(kept)
    processor = Processor(model, processing_class)
    return [processor(r) for r in train], [processor(r) for r in test], labels, processing_class


class Lab:
    """The rows of one data set, and the cache of trained models."""

    def __init__(self, data: str, path: str | None, out: Path) -> None:
        self.data, self.out = data, out
        self.train, self.test, self.labels, self.processing_class = load(data, path, out)
        self.y = torch.stack([r["labels"] for r in self.train])

    def epochs(self, arch: str) -> int:
        return {"mnist": MNIST_EPOCHS, "digits": DIGITS_EPOCHS}.get(self.data, {}).get(arch, 8)

    def learning_rate(self, arch: str) -> float:
        return MNIST_SWIN_RATE if (self.data, arch) == ("mnist", "swin") else LEARNING_RATE[arch]

    def trained(
        self, arch: str, seed: int, keep: torch.Tensor | None = None, name: str = "original"
    ) -> tuple[Any, float]:
        """Return a model that is trained on the rows `keep` (default: all), and the seconds of its training. Trained models are cached."""
        from hf_unlearn.models.processor import Processor
        from hf_unlearn.training.plain_training import train_classifier

        torch.manual_seed(seed if keep is None else 1000 + seed)
        model = build(arch, self.data, self.labels)
        file = self.out / "models" / f"{self.data}-{arch}-{seed}-{name}.safetensors"
        if file.exists():
            state = load_file(file)
            seconds = state.pop("seconds").item()
            model.load_state_dict(state)
            return model.eval(), seconds
        rows = self.train if keep is None else [r for r, k in zip(self.train, keep.tolist(), strict=True) if k]
        arguments = {
            "num_train_epochs": self.epochs(arch), "learning_rate": self.learning_rate(arch), "per_device_train_batch_size": 64,
            "weight_decay": 0.01, "warmup_steps": 50, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
            "seed": seed,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            seconds = train_classifier(model, rows, Processor(model, self.processing_class), arguments, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        save_file(
            {**{k: v.contiguous() for k, v in model.state_dict().items()}, "seconds": torch.tensor(seconds)}, partial
        )
        partial.replace(file)
        return model.eval(), seconds

    def cell(self, arch: str, seed: int, request: str, method: str, retrain: bool) -> dict[str, Any]:
        """Run `method` for `request` (a class id, or `random`), and measure the result."""
        from hf_unlearn import METHODS, UnlearningArguments, UnlearningTrainer
        from hf_unlearn.evaluation.relearning import relearn
        from hf_unlearn.models.adapter_config import SHORTHANDS

        if request == "random":
            forget = torch.zeros(len(self.y), dtype=torch.bool)
            forget[
                torch.randperm(len(self.y), generator=torch.Generator().manual_seed(777 + seed))[: len(self.y) // 10]
            ] = True
        else:
            forget = self.y == int(request)
        original, _ = self.trained(arch, seed)
        key, _, update = method.partition(":")
        adapter = update if update in SHORTHANDS else None
        test, kept = self.test, [r for r, f in zip(self.train, forget.tolist(), strict=True) if not f]
        sets: dict[str, Any] = {}
        if METHODS[key].needs_retain:  # the method reads a fifth of the test rows, so nothing is measured on them
            test, sets = test[len(test) // 5 :], {"retain_dataset": kept, "eval_dataset": test[: len(test) // 5]}
        rows = [r for r, f in zip(self.train, forget.tolist(), strict=True) if f]
        with tempfile.TemporaryDirectory() as folder:
            args = UnlearningArguments(
                output_dir=folder, use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=seed,
                forget_kind="samples" if request == "random" else "class", update=None if adapter else update or None,
            )  # fmt: skip
            trainer = UnlearningTrainer(
                model=copy.deepcopy(original), args=args, method=METHODS[key](), forget_dataset=rows,
                processing_class=self.processing_class, peft_config=adapter, **sets,
            )  # fmt: skip
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
        assert trainer.outcome is not None
        out = {
            "data": self.data, "arch": arch, "seed": seed, "request": request, "method": method, "seconds": seconds,
            "steps": trainer.outcome.steps, "warnings": trainer.outcome.warnings,
        }  # fmt: skip
        models = {"original": original, "unlearned": trainer.model}
        if retrain:
            models["retrained"], out["retrain_seconds"] = self.trained(arch, seed, ~forget, f"without-{request}")
        y_test = torch.stack([r["labels"] for r in test])
        for name, model in models.items():
            if request == "random":
                out[name] = trainer_report_measures(model, rows, kept, test, trainer.processor)
                continue
            gone = y_test == int(request)
            out[name] = {
                "forgotten": accuracy(model, test, gone, trainer.processor),
                "kept": accuracy(model, test, ~gone, trainer.processor),
            }
            if retrain:
                probe = [r for r, g in zip(test, gone.tolist(), strict=True) if g]
                goal = 0.9 * out["original"]["forgotten"] / 100
                *_, (steps, found) = relearn(model, rows[:20], probe, trainer.processor, stop=goal, limit=199)
                out[name]["relearning"] = steps if found >= goal else 200
        return out


def accuracy(model: Any, rows: list[Any], where: torch.Tensor, processor: Any) -> float:
    """In percentage points."""
    from hf_unlearn.models.prediction import predict

    logits, labels = predict(model, [r for r, w in zip(rows, where.tolist(), strict=True) if w], processor)
    return 100 * (logits.argmax(-1) == labels).float().mean().item()


def trainer_report_measures(
    model: Any, forget: list[Any], retain: list[Any], test: list[Any], processor: Any
) -> dict[str, float]:
    """Accuracy on forget, retain and test rows, and success of the entropy attack, in points."""
    from hf_unlearn.metrics.functional.membership import entropy_attack
    from hf_unlearn.models.prediction import predict

    outputs = {k: predict(model, v, processor) for k, v in (("forget", forget), ("retain", retain), ("test", test))}
    out = {k: 100 * (z.argmax(-1) == y).float().mean().item() for k, (z, y) in outputs.items()}
    attack = entropy_attack(outputs["retain"][0], outputs["test"][0], outputs["forget"][0])
    return {**out, "membership": 100 * attack}


def gap(ours: dict[str, float], yardstick: dict[str, float]) -> float:
    """Mean absolute difference, in points."""
    return statistics.mean(abs(ours[k] - yardstick[k]) for k in ("forget", "retain", "test", "membership"))


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for f in sorted(out.glob("cells*.jsonl")) for line in f.read_text().splitlines()]


def table(out: Path) -> str:
    """Print the results as markdown tables."""
    cells = read(out)
    lines = ["| data | architecture | method | runs | forgotten: median / worst | kept points lost: median / worst | "
             "gap to retrained, kept: median / worst | depth: median / lowest | time / retraining |", "|---" * 9 + "|"]  # fmt: skip
    keys = sorted({(c["data"], c["arch"], c["method"]) for c in cells if c["request"] != "random"})
    for key in keys:
        some = [c for c in cells if (c["data"], c["arch"], c["method"]) == key and c["request"] != "random"]
        gone = [c["unlearned"]["forgotten"] for c in some]
        lost = [c["original"]["kept"] - c["unlearned"]["kept"] for c in some]
        both = [c for c in some if "retrained" in c]
        gaps = [abs(c["retrained"]["kept"] - c["unlearned"]["kept"]) for c in both]
        depth = [c["unlearned"]["relearning"] / max(1, c["retrained"]["relearning"]) for c in both]
        ratio = [100 * c["seconds"] / c["retrain_seconds"] for c in both]
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {len(some)} | {_pair(gone, max)} | {_pair(lost, max)} | "
            f"{_pair(gaps, max)} | {_pair(depth, min, 2)} | {f'{statistics.median(ratio):.1f} %' if ratio else '–'} |"
        )
    rnd = [c for c in cells if c["request"] == "random"]
    if rnd:
        lines += [
            "",
            "| data | architecture | method | runs | mean gap of the original | mean gap of the unlearned | worst |",
            "|---" * 7 + "|",
        ]
    for key in sorted({(c["data"], c["arch"], c["method"]) for c in rnd}):
        some = [c for c in rnd if (c["data"], c["arch"], c["method"]) == key]
        before, after = ([gap(c[m], c["retrained"]) for c in some] for m in ("original", "unlearned"))
        lines.append(
            f"| {' | '.join(key)} | {len(some)} | {statistics.mean(before):.2f} | {statistics.mean(after):.2f} | {max(after):.2f} |"
        )
    return "\n".join(lines)


def _pair(values: list[float], extreme: Any, digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} / {extreme(values):.{digits}f}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--data", default="digits", choices=("digits", "mnist", *TEXT))
    parser.add_argument("--path", help="folder of the data set, in place of its Hub id")
    parser.add_argument("--arch", nargs="+", help="default: resnet convnext vit swin, or bert distilbert")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--requests", nargs="+", help="class ids or `random`; default: every class")
    parser.add_argument("--methods", nargs="+", default=["jit"])
    parser.add_argument(
        "--retrain-classes", nargs="*", default=[], help="classes that are also retrained without, for gap and depth"
    )
    parser.add_argument("--out", type=Path, default=Path("out/forgetting"))
    options = parser.parse_args()
    if options.command == "table":
        print(table(options.out))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    lab = Lab(options.data, options.path, options.out)
    requests = options.requests or [str(c) for c in range(lab.labels)]
    arches = options.arch or (["bert", "distilbert"] if options.data in TEXT else ["resnet", "convnext", "vit", "swin"])
    done = {(c["data"], c["arch"], c["seed"], c["request"], c["method"]) for c in read(options.out)}
    for seed in options.seeds:
        for arch in arches:
            for request in requests:
                for method in options.methods:
                    if (options.data, arch, seed, request, method) in done:
                        continue
                    retrain = request == "random" or request in options.retrain_classes
                    cell = lab.cell(arch, seed, request, method, retrain)
                    with open(options.out / f"cells-{os.getpid()}.jsonl", "a") as file:
                        file.write(json.dumps(cell) + "\n")
                    print({k: v for k, v in cell.items() if k != "warnings"}, flush=True)


if __name__ == "__main__":
    main()

"""The demo: a small classifier, two requests, each compared with retraining."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .exit_codes import answered

VISION_CONFIG: dict[str, Any] = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}
TEXT_CONFIG: dict[str, Any] = {
    "model_type": "distilbert",
    "vocab_size": 4000,
    "max_position_embeddings": 64,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 128,
    "initializer_range": 0.1,
}


def main(words: Sequence[str]) -> int:
    """`hf-unlearn demo`: 0 when both requests did what was asked, 1 when not; other codes as in `exit_codes`."""
    return answered(lambda: _demo(_parse(words)))


def _demo(options: argparse.Namespace) -> int:
    """Train, forget a class and a random 10 %, compare, write reports; 0 when both did what was asked."""
    from ..evaluation.report.run_description import class_names
    from ..methods import METHODS
    from ..pipeline.prepare import prepare
    from ..pipeline.run_arguments import RunArguments
    from ..pipeline.unlearn import retrain, unlearn
    from ..training.arguments import UnlearningArguments

    text = options.task == "text"
    output = Path(options.output)
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        config.write_text(json.dumps(TEXT_CONFIG if text else VISION_CONFIG))
        common: dict[str, Any] = {
            "model": str(Path(scratch) / "original"),
            "model_config": str(config),
            "dataset": options.dataset or "digits",
            "text_column": options.text_column,
            "label_column": options.label_column,
            "retrain": True,
            "relearning": True,
            "train_epochs": 8.0 if text else 25.0,
            "train_learning_rate": 2e-3 if text else 3e-3,
        }
        requests: dict[str, dict[str, Any]] = {
            "class": {"forget_class": [options.forget_class or "3"]},
            "random": {"forget_fraction": 0.1},
        }
        failed = False
        yardsticks: dict[str, Any] = {}
        for request, key in (("class", "jit"), ("class", "counterfactual_distillation"), ("random", "jit")):
            run = RunArguments(**common, **requests[request])
            folder = output / f"{request}-{key.replace('_', '-')}"
            args = UnlearningArguments(
                output_dir=str(folder), overwrite=True, save_strategy="no", logging_strategy="no", seed=options.seed
            )
            job = prepare(run, args)
            if request not in yardsticks:
                yardsticks[request] = retrain(job)
            asked = run.request().describe(class_names(job.model.config))
            print(f"\nForgetting {asked} with {METHODS[key].__name__}", flush=True)
            trainer, report = unlearn(job, METHODS[key](), yardsticks[request])
            report.save(folder)
            report.print()
            failed |= not trainer.outcome.ok
    print(f"Reports and figures: {output}/*/report.html")
    return int(failed)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-unlearn demo", description="Train, forget, compare with retraining, report."
    )
    parser.add_argument(
        "--task", choices=("vision", "text"), default="vision", help="kind of classifier (default: vision)"
    )
    parser.add_argument(
        "--dataset", help="folder or Hub id; default: scikit-learn's digits (vision); required for text"
    )
    parser.add_argument("--text-column", help="text column, if not `text`, `sentence` or `content`")
    parser.add_argument("--label-column", default="label", help="column of class ids (default: label)")
    parser.add_argument("--forget-class", help="class to forget (default: the fourth)")
    parser.add_argument("--output", default="demo-output", help="folder for reports and figures (default: demo-output)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parsed = parser.parse_args(words)
    if parsed.task == "text" and not parsed.dataset:
        parser.error("--task text needs --dataset: a folder or Hub id with a text and a label column")
    return parsed

"""`hf-unlearn demo`: train a small classifier, fulfill two requests, and compare each with retraining."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parsers import CommandParser, parser_settings

VISION_CONFIG: dict[str, Any] = {
    "model_type": "vit", "image_size": 16, "patch_size": 4, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 96, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1,
}  # fmt: skip
TEXT_CONFIG: dict[str, Any] = {
    "model_type": "distilbert", "vocab_size": 4000, "max_position_embeddings": 64, "dim": 64, "n_layers": 2, "n_heads": 4,
    "hidden_dim": 128, "initializer_range": 0.1,
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn demo`. Returns 0 if both requests were fulfilled, else 1."""
    from ..evaluation.report.run_description import class_names
    from ..methods import METHODS
    from ..pipeline.folder_lock import sole_writer
    from ..pipeline.prepare import prepare
    from ..pipeline.run_arguments import RunArguments
    from ..pipeline.unlearn import retrain, unlearn
    from ..training.arguments import UnlearningArguments

    options = _parse(words)
    text = options.task == "text"
    requests: dict[str, dict[str, Any]] = {
        "class": {"forget_class": [options.forget_class or "3"]},
        "random": {"forget_fraction": 0.1},
    }
    failed: list[str] = []
    retrained: dict[str, Any] = {}
    with sole_writer(options.output, "--output"), tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        config.write_text(json.dumps(TEXT_CONFIG if text else VISION_CONFIG))
        # Distillation holds kept rows by made-up inputs, which stand in for images and only partly for texts.
        deep = [] if text else [("class", "counterfactual_distillation")]
        for request, key in (("class", "jit"), *deep, ("random", "jit")):
            run = RunArguments(
                model=str(Path(scratch) / "original"),
                model_config=str(config),
                dataset=options.dataset or "digits",
                text_column=options.text_column,
                label_column=options.label_column,
                retrain=True,
                retrained_cache="none",
                relearning=True,
                train_epochs=8.0 if text else 25.0,
                train_learning_rate=2e-3 if text else 3e-3,
                **requests[request],
            )
            folder = f"{options.output}/{request}-{key.replace('_', '-')}"
            quiet: dict[str, Any] = {"save_strategy": "no", "logging_strategy": "no"}
            job = prepare(run, UnlearningArguments(output_dir=folder, overwrite=True, seed=options.seed, **quiet))
            if request not in retrained:
                retrained[request] = retrain(job)
            rows = run.request().describe(class_names(job.model.config))
            print(f"\nForgetting {rows} with {METHODS[key].__name__}", flush=True)
            trainer, report = unlearn(job, METHODS[key](), retrained[request])
            report.save(folder)
            report.print()
            if not trainer.outcome.ok:
                failed.append(Path(folder).name)
    if failed:
        print(f"Not forgotten as asked, for the reasons above: {', '.join(failed)}")
    print(f"Reports and figures: {options.output}/*/report.html")
    # These models hardly treat single rows that they saw otherwise than unseen ones, so little can be forgotten of them.
    return 1 if any(name.startswith("class") for name in failed) else 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    about = "Train a small classifier, forget one class and a random tenth of the rows, and compare with retraining."
    examples = ("", "--task text --dataset FOLDER_OR_HUB_ID --forget-class sports")
    parser = CommandParser(**parser_settings("demo", about, *examples))
    add = parser.add_argument
    add("--task", choices=("vision", "text"), default="vision", help="Kind of classifier.")
    add("--dataset", help="Folder or Hub id. Images default to scikit-learn's digits; a text task needs a data set.")
    add("--text-column", help="Column of texts, if it has no usual name; 'a,b' for pairs of texts.")
    add("--label-column", default="label", help="Column of class ids.")
    add("--forget-class", help="Class to forget, by name or id. By default class 3.")
    add("--output", default="demo-output", help="Folder for reports and figures.")
    add("--seed", type=int, default=0, help="Seed of everything random.")
    parsed = parser.parse_args(words)
    if parsed.task == "text" and not parsed.dataset:
        parser.error("--task text needs --dataset: a folder or Hub id with a text and a label column")
    return parsed

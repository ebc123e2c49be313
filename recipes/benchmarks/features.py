"""Unlearn an attribute: the color of a digit, and what identity words do to a classifier of hate speech.

    python recipes/benchmarks/features.py coloured-mnist --path FOLDER --seeds 0 1 2
    python recipes/benchmarks/features.py identity-words --path FOLDER --templates FOLDER

coloured-mnist: accuracy in a test set of random colors, on the images whose color goes with the label's parity (aligned) and on
the others (conflicting); and the AUC of a logistic regression that reads the color from the outputs. A model that was trained on
random colors stands beside the original. identity-words: accuracy on held-out tweets; and the rates of false positives (called
hateful or offensive) for the 50 identity words in non-toxic template sentences: mean, standard deviation and range. Trained
models are kept in `--out`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from prepare import SOURCES, coloured, identity_words

RECIPES = Path(__file__).parents[1]


def trained(
    file: Path, config: Path, rows: list[Any], processing_class: Any, labels: int, seed: int, rate: float
) -> Any:
    """Return a classifier that is trained for three epochs on `rows`. Trained models are cached."""
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    from hf_unlearn.models.processor import Processor
    from hf_unlearn.training.plain_training import train_classifier

    settings = AutoConfig.from_pretrained(config, num_labels=labels)
    auto = AutoModelForSequenceClassification if hasattr(settings, "vocab_size") else AutoModelForImageClassification
    torch.manual_seed(seed)
    model = auto.from_config(settings)
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    arguments = {
        "num_train_epochs": 3, "learning_rate": rate, "per_device_train_batch_size": 64, "weight_decay": 0.01,
        "warmup_steps": 50, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "seed": seed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_classifier(model, rows, Processor(model, processing_class), arguments, folder)
    print(f"trained {file.stem} in {seconds:.0f} s", flush=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return model.eval()


def unlearned(
    model: Any, method: Any, train: Any, processing_class: Any, seed: int, **arguments: Any
) -> tuple[Any, float]:
    """Unlearn the attribute. Returns a changed copy of `model`, and the seconds."""
    from hf_unlearn import UnlearningArguments, UnlearningTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = UnlearningArguments(
            folder, use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=seed, **arguments
        )
        trainer = UnlearningTrainer(
            copy.deepcopy(model), args, method, retain_dataset=train, processing_class=processing_class
        )
        trainer.train()
    return trainer.model, trainer.seconds


def coloured_mnist(options: Any) -> None:
    from datasets import Array3D, ClassLabel, Dataset, Features, Value, load_dataset
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    from hf_unlearn import FeatureInformation, WassersteinBarycenter
    from hf_unlearn.models.prediction import predict
    from hf_unlearn.models.processor import Processor

    source = load_dataset(options.path or SOURCES["coloured-mnist"])
    config = RECIPES / "coloured-mnist-resnet" / "config.json"

    def rows(split: str, rho: float, seed: int) -> Any:
        labels = np.asarray(source[split]["label"])
        rgb, colour = coloured(source[split]["image"], labels, rho, seed)
        pixels = (rgb.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
        features = Features(
            {"pixel_values": Array3D(pixels.shape[1:], "float32"), "label": ClassLabel(10), "colour": Value("int64")}
        )
        columns = {"pixel_values": pixels, "label": labels, "colour": colour}
        return Dataset.from_dict(columns, features=features).with_format("numpy")

    for seed in options.seeds:
        train, neutral, test = rows("train", 0.9, seed), rows("train", 0.0, 100 + seed), rows("test", 0.0, 200 + seed)
        y, z = np.asarray(test["label"]), np.asarray(test["colour"])

        def measure(model: Any, test: Any = test, y: np.ndarray = y, z: np.ndarray = z) -> dict[str, float]:
            logits, _ = predict(model, test, Processor(model, None))
            right, aligned = logits.argmax(-1).numpy() == y, y % 2 == z
            out = {"aligned": 100 * right[aligned].mean(), "conflicting": 100 * right[~aligned].mean()}
            for name, read in (("auc", logits.softmax(-1)), ("auc_log", logits.log_softmax(-1))):
                probabilities = cross_val_predict(
                    LogisticRegression(max_iter=500), read.numpy(), z, method="predict_proba"
                )
                out[name] = roc_auc_score(z, probabilities[:, 1])
            return {k: round(float(v), 3) for k, v in out.items()}

        original = trained(options.out / f"colour-{seed}.safetensors", config, train, None, 10, seed, 3e-3)
        print(seed, "original", measure(original), flush=True)
        yardstick = trained(
            options.out / f"colour-neutral-{seed}.safetensors", config, neutral, None, 10, 1000 + seed, 3e-3
        )
        print(seed, "random colours", measure(yardstick), flush=True)
        for method in (FeatureInformation(attribute="colour"), WassersteinBarycenter(attribute="colour")):
            arguments = {} if method.one_shot else {"num_train_epochs": 1.0}
            model, seconds = unlearned(original, method, train, None, seed, **arguments)
            print(seed, method.name, measure(model), f"{seconds:.0f} s", flush=True)


def words(options: Any) -> None:
    from datasets import load_dataset
    from transformers import AutoConfig, AutoTokenizer

    from hf_unlearn import FeatureInformation
    from hf_unlearn.models.prediction import predict
    from hf_unlearn.models.processor import Processor
    from hf_unlearn.pipeline.original import build_processor

    sets = identity_words(load_dataset(options.path or SOURCES["identity-words"]), 0)
    templates = load_dataset(options.templates)["test"]
    neutral = templates.filter(lambda r: r["label"] == 0 and r["group"] is not None)
    config, kept = RECIPES / "hate-distilbert" / "config.json", options.out / "tokenizer"
    if kept.exists():
        tokenizer = AutoTokenizer.from_pretrained(kept)
    else:
        tokenizer = build_processor(AutoConfig.from_pretrained(config), sets["train"])
        tokenizer.save_pretrained(kept)
    group = np.asarray(neutral["group"])
    sentences = [{"text": t} for t in neutral["text"]]

    def measure(model: Any) -> dict[str, float]:
        processor = Processor(model, tokenizer)
        logits, labels = predict(model, sets["test"], processor)
        wrong = (predict(model, sentences, processor)[0].argmax(-1) != 2).numpy()
        rates = np.array([wrong[group == w].mean() for w in sorted(set(group))])
        return {
            "accuracy": round(100 * (logits.argmax(-1) == labels).float().mean().item(), 2),
            "false positives": round(100 * rates.mean(), 2), "deviation": round(100 * rates.std(), 2),
            "range": round(100 * (rates.max() - rates.min()), 1),
        }  # fmt: skip

    for seed in options.seeds:
        original = trained(options.out / f"words-{seed}.safetensors", config, sets["train"], tokenizer, 3, seed, 1e-3)
        print(seed, "original", measure(original), flush=True)
        method = FeatureInformation(attribute="identity", balance=1.0, memory=0.98, weight=10.0)
        model, seconds = unlearned(original, method, sets["train"], tokenizer, seed, num_train_epochs=1.0)
        print(seed, method.name, measure(model), f"{seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs: dict[str, Callable[[Any], None]] = {"coloured-mnist": coloured_mnist, "identity-words": words}
    parser.add_argument("data", choices=tuple(runs))
    parser.add_argument("--path", help="folder of the source, in place of its Hub id")
    parser.add_argument("--templates", help="identity-words: folder of the template sentences (text, label, group)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("out/features"))
    options = parser.parse_args()
    if options.data == "identity-words" and not options.templates:
        parser.error("identity-words needs --templates: a data set with columns text, label and group")
    options.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"data": options.data, "seeds": options.seeds}))
    runs[options.data](options)


if __name__ == "__main__":
    main()

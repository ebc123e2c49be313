"""Measure what the attacks cost on many cached outputs, and what shadow models on digits cost.

    python recipes/benchmarks/attacks.py outputs [--rows 1000000] [--classes 10] [--shadows 16]
    python recipes/benchmarks/attacks.py shadows [--model vit] [--models 16] [--workers 2] [--folder FOLDER]

`outputs`: the logits of one attacked model and of `--shadows` shadow models on `--rows` rows are written to disk, which is not
timed. Then they are read and attacked: confidence scores, LiRA online and offline, RMIA, the ROC curve of each with its
intervals, and U-LiRA, score shift and KLoM of two halves of the shadow models. One process with one thread does all of it, and
its peak resident memory is reported. `shadows`: seconds to train the shadow models on halves of the digits (`vit`: the model of
the demo; `mlp`: one hidden layer of 64), and what the attacks find on each of them. Both print JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HELD_OUT = 10  # one row in so many is in no training set: they are the population of RMIA


def write_outputs(folder: Path, rows: int, classes: int, models: int) -> None:
    """Write logits of models that are surer of their training rows than of others, one file for each model."""
    from safetensors.numpy import save_file

    from hf_unlearn.evaluation.shadow_models import half_splits

    rng = np.random.default_rng(0)
    never = rows // HELD_OUT
    members = half_splits(rows - never, models, never=never)
    labels = rng.integers(classes, size=rows)
    base = rng.normal(0, 2, (rows, classes)).astype(np.float32)
    for i in range(models):
        logits = base + rng.standard_normal((rows, classes), np.float32)
        logits[np.arange(rows), labels] += 2 + members[i]
        save_file({"logits": logits}, folder / f"{i}.safetensors")
    save_file({"members": members, "labels": labels}, folder / "design.safetensors")


def attack_outputs(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    from hf_unlearn.evaluation.shadow_models import Shadows, attackers
    from hf_unlearn.metrics.functional.forgetting_quality import klom
    from hf_unlearn.metrics.functional.per_example_attacks import lira, rmia, score_shift, u_lira
    from hf_unlearn.metrics.functional.roc import roc

    seconds, found = {}, {}
    started = lap = time.perf_counter()

    def done(name: str) -> None:
        nonlocal lap
        seconds[name] = round(time.perf_counter() - lap, 2)
        lap = time.perf_counter()

    design = load_file(folder / "design.safetensors")
    models, rows = design["members"].shape
    shadows = Shadows(
        tuple(folder / f"{i}.safetensors" for i in range(models)), design["members"].astype(bool), design["labels"]
    )
    scores, cut = shadows.scores(), rows - rows // HELD_OUT
    done("read and score")
    rest = attackers(0, models)
    target, others, trained = scores[0, :cut], scores[rest], shadows.members[rest, :cut]
    member = shadows.members[0, :cut]
    for name, attack in {
        "lira": lambda: lira(target, others[:, :cut], trained),
        "lira, a variance per row": lambda: lira(target, others[:, :cut], trained, fixed_variance=False),
        "lira offline": lambda: lira(target, others[:, :cut], trained, online=False),
        "rmia": lambda: rmia(target, others[:, :cut], trained, scores[0, cut:], others[:, cut:]),
    }.items():
        ranks = attack()
        result = roc(ranks[member], ranks[~member])
        found[name] = {"auc": [result.auc, result.auc_low, result.auc_high], "tpr": result.tpr}
        done(name)
    one, other = scores[::2], scores[1::2]
    for name, attack in {
        "u_lira": lambda: roc(*u_lira(one, other)).auc,
        "score_shift": lambda: float(np.median(score_shift(one, other))),
        "klom": lambda: float(np.median(klom(one, other))),
    }.items():
        found[name] = attack()
        done(name)
    seconds["all"] = round(time.perf_counter() - started, 2)
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "shadows": models, "seconds": seconds, "peak_mib": round(mib), "found": found}


def digits_training(kind: str) -> tuple[Any, int]:
    """Return the settings of a shadow model, and the number of digits that are not training rows."""
    from datasets import concatenate_datasets
    from transformers import AutoConfig, AutoModelForImageClassification

    from hf_unlearn.cli.demo import VISION_CONFIG
    from hf_unlearn.data.loading import load_digits
    from hf_unlearn.evaluation.shadow_models import ShadowTraining
    from hf_unlearn.models.pixel_mlp import PixelMLPConfig
    from hf_unlearn.pipeline.original import build_processor

    sets = load_digits()
    config: Any = (
        PixelMLPConfig(image_size=8, hidden_sizes=(64,), num_labels=10)
        if kind == "mlp"
        else AutoConfig.for_model(**VISION_CONFIG, num_labels=10)
    )
    arguments = {
        "num_train_epochs": 25.0, "learning_rate": 3e-3, "per_device_train_batch_size": 64, "weight_decay": 0.01,
        "warmup_steps": 50, "use_cpu": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    data = concatenate_datasets([sets["train"], sets["test"]])
    init = functools.partial(AutoModelForImageClassification.from_config, config)
    processor = build_processor(config, data)
    training = ShadowTraining(model_init=init, dataset=data, processing_class=processor, arguments=arguments)
    return training, len(sets["test"])


def train_and_attack(kind: str, models: int, workers: int, folder: Path) -> dict[str, Any]:
    from hf_unlearn.evaluation.shadow_models import attackers, half_splits, train_shadows
    from hf_unlearn.metrics.functional.per_example_attacks import lira, rmia
    from hf_unlearn.metrics.functional.roc import roc

    training, never = digits_training(kind)
    cut = len(training.dataset) - never
    started = time.perf_counter()
    shadows = train_shadows(training, half_splits(cut, models, never=never), folder, workers=workers)
    seconds = time.perf_counter() - started
    scores, members = shadows.scores(), shadows.members[:, :cut]
    aucs: dict[str, list[float]] = {}
    for i in range(models):
        rest = attackers(i, models)
        common = (scores[i, :cut], scores[rest][:, :cut], members[rest])
        ranks = {
            "threshold": scores[i, :cut],
            "lira": lira(*common),
            "lira offline": lira(*common, online=False),
            "rmia": rmia(*common, scores[i, cut:], scores[rest][:, cut:]),
        }
        for name, values in ranks.items():
            aucs.setdefault(name, []).append(roc(values[members[i]], values[~members[i]]).auc)
    spread = {name: [round(float(np.mean(v)), 4), round(float(np.std(v)), 4)] for name, v in aucs.items()}
    return {"model": kind, "models": models, "workers": workers, "seconds": round(seconds, 1), "auc mean, sd": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("outputs", "shadows"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shadows", type=int, default=16)
    parser.add_argument("--model", choices=("vit", "mlp"), default="vit")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder for the outputs; by default they are not kept")
    parser.add_argument("--attack", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        print(json.dumps(attack_outputs(options.attack)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if options.what == "shadows":
            print(json.dumps(train_and_attack(options.model, options.models, options.workers, folder), indent=1))
            return
        write_outputs(folder, options.rows, options.classes, options.shadows)
        # The attacks run in a fresh process, so that its peak memory is theirs alone.
        command = [sys.executable, __file__, "outputs", "--attack", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(json.dumps(json.loads(done.stdout.splitlines()[-1]), indent=1))


if __name__ == "__main__":
    main()

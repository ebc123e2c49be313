"""Measure how JiT's cost grows with the forget set, and how much memory it needs beside an ordinary training step.

    python recipes/benchmarks/scaling.py [--sizes 100 1000 10000] [--rounds 2]

Cost: CPU seconds of one pass of `UnlearningTrainer` over n forget images, without a target, on a small ViT. Each size has a fresh
process, the rounds take turns, and the fastest counts. The script also reports the highest private memory at the end of a step,
above that before the run. Prepared rows are kept up to 64 MiB; pages of the data set's file are not private.

Memory: the rise of private memory in four steps on a larger ViT, over that in four steps of the plain HF `Trainer` with SGD at
the same batch size. The images are random, because neither figure depends on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, BATCH = 32, 64


def vit(patch: int, width: int, layers: int) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"image_size": SIZE, "patch_size": patch, "hidden_size": width, "num_hidden_layers": layers}
    config = ViTConfig(num_attention_heads=width // 24, intermediate_size=2 * width, num_labels=10, **shape)
    return ViTForImageClassification(config)


def images(n: int, folder: str) -> Any:
    """Return n random images with labels, memory-mapped from disk."""
    import datasets
    import numpy as np

    def rows() -> Any:
        rng = np.random.default_rng(0)
        for i in range(n):
            yield {"pixel_values": rng.normal(size=(3, SIZE, SIZE)).astype(np.float32), "label": i % 10}

    features = datasets.Features(
        {"pixel_values": datasets.Array3D((3, SIZE, SIZE), "float32"), "label": datasets.ClassLabel(10)}
    )
    return datasets.Dataset.from_generator(rows, features=features, cache_dir=folder).with_format("numpy")


def peak() -> float:
    """Return the highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def private() -> float:
    """Return the anonymous resident memory of this process, in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def measure(kind: str, size: str, n: int) -> dict[str, float]:
    """Make one run in this process. Returns its seconds, and the rise of peak memory from before the run to its end."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from hf_unlearn import JiT, UnlearningArguments, UnlearningTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1.0, "per_device_eval_batch_size": BATCH,
    }  # fmt: skip
    model = vit(8, 72, 4) if size == "small" else vit(2, 192, 8)
    with tempfile.TemporaryDirectory() as folder:
        data = images(n, folder)
        if kind == "train":
            trainer = Trainer(model, TrainingArguments(folder + "/out", optim="sgd", **common), train_dataset=data)
        else:
            args = UnlearningArguments(
                folder + "/out", update="all", forget_target=-1.0, forget_kind="samples", check_steps=10_000, **common
            )
            method = JiT(anchors=False, rows_per_forward=BATCH, remembered_only=False)
            trainer = UnlearningTrainer(model, args, method, data)

        class Watch(TrainerCallback):
            highest = 0.0

            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                Watch.highest = max(Watch.highest, private())

        trainer.add_callback(Watch())
        before, at_rest, started = peak(), private(), time.process_time()
        trainer.train()
        seconds = time.process_time() - started
        return {"seconds": seconds, "mib": peak() - before, "private": Watch.highest - at_rest}


def fresh(*words: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SIZE", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, size, n = options.one
        print(json.dumps(measure(kind, size, int(n))))
        return
    steps = {
        kind: min(fresh(kind, "large", str(4 * BATCH))["mib"] for _ in range(options.rounds))
        for kind in ("train", "jit")
    }
    print(json.dumps({"step_mib": steps, "memory_ratio": round(steps["jit"] / steps["train"], 3)}), flush=True)
    runs: dict[int, list[dict[str, float]]] = {n: [] for n in options.sizes}
    for _ in range(options.rounds):
        for n in options.sizes:
            runs[n].append(fresh("jit", "small", str(n)))
    for n, found in runs.items():
        seconds, mib = (min(r[k] for r in found) for k in ("seconds", "private"))
        print(
            json.dumps(
                {
                    "n": n,
                    "cpu_seconds": round(seconds, 2),
                    "ms_per_sample": round(1000 * seconds / n, 3),
                    "mib": round(mib),
                }
            )
        )


if __name__ == "__main__":
    main()

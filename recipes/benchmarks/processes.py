"""Measure how much faster JiT is in two processes on a CPU, with one thread each.

    python recipes/benchmarks/processes.py [--rounds 3] [--processes 2]

One run is made in one process and in several, which share the rows of a step; the runs take turns. The script prints JSON.
`steps` is the wall time of the training steps; `train` that of `train()`, with the pass over the forget set and all evaluations
and checks; `run` that of the process, with imports and data. Each ratio is the time of one process over that of several, the
median of the rounds. `work` is the same ratio in CPU seconds of `train()`, for the busiest process: what sharing saves if no other
program takes a core. The images are random, because no figure depends on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, FORGET, BATCH, STEPS = 32, 64, 32, 4


def worker(folder: Path) -> None:
    """Make one run, in this process alone or in one of several. Each process writes what it measured."""
    begun = time.perf_counter()
    import datasets
    import numpy as np
    import torch
    from transformers import TrainerCallback, ViTConfig, ViTForImageClassification

    from hf_unlearn import JiT, UnlearningArguments, UnlearningTrainer

    class Clock(TrainerCallback):
        seconds, started = 0.0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:  # the first step is slower and does not count
                self.seconds += time.perf_counter() - self.started

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    config = ViTConfig(
        image_size=SIZE, patch_size=4, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        num_labels=10,
    )  # fmt: skip
    pixels = np.random.default_rng(0).normal(size=(FORGET, 3, SIZE, SIZE)).astype(np.float32)
    features = {"pixel_values": datasets.Array3D((3, SIZE, SIZE), "float32"), "label": datasets.ClassLabel(10)}
    data = datasets.Dataset.from_dict(
        {"pixel_values": pixels, "label": [1] * FORGET}, features=datasets.Features(features)
    ).with_format("numpy")
    clock = Clock()
    args = UnlearningArguments(
        str(folder / f"out-{time.time_ns()}"), use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
        max_steps=STEPS, check_steps=4, per_device_train_batch_size=BATCH // processes, forget_target=-1.0,
        max_retain_drop=1.0, forget_kind="class", update="all", probe_size=FORGET,
    )  # fmt: skip
    method = JiT(remembered_only=False, anchors=False, precision="float32")
    trainer = UnlearningTrainer(ViTForImageClassification(config), args, method, data, callbacks=[clock])
    started, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    now = time.perf_counter()
    found = {"steps": clock.seconds, "train": now - started, "run": now - begun, "work": time.process_time() - cpu}
    (folder / f"{processes}-{rank}.json").write_text(json.dumps(found))
    os._exit(0)


def main() -> None:
    from hf_unlearn.cli.processes import launch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    runs: list[dict[str, float]] = []  # one process, several, one, several, …
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds):
            for processes in (1, options.processes):
                environment = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
                assert launch([sys.executable, __file__, str(folder)], processes, environment) == 0
                found = [json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]
                runs.append({key: max(f[key] for f in found) for key in found[0]})
                print(processes, {k: round(v, 2) for k, v in runs[-1].items()}, file=sys.stderr)
    ratios = {
        key: statistics.median(a[key] / b[key] for a, b in zip(runs[::2], runs[1::2], strict=True)) for key in runs[0]
    }
    print(
        json.dumps({"processes": options.processes, "ratio": {k: round(v, 2) for k, v in ratios.items()}, "runs": runs})
    )


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        worker(Path(sys.argv[1]))
    main()

"""Measure IT-reg for data points on MNIST over several originals: the published setting, and the default, which stops at a target.

    python recipes/benchmarks/marginal.py --path FOLDER --bases 3 --trials 3
    python recipes/benchmarks/marginal.py --table

The set-up is that of arXiv 2502.05684: an MLP 784-128-64-10 is trained for 100 epochs with Adam (1e-3) in batches of 64 on
normalized pixels, and three quarters of the threes are to be forgotten. Each original has its own seed and its own draw of rows.
It is compared with models that were retrained without these rows, with `--yardsticks` seeds. The stop reads a random fifth of the
test set, and accuracies are measured on the rest. Originals, retrained models and finished runs are kept in `--out`, so a killed
benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

PAPER = {"1.5x20": (94.4, 99.85, 97.53), "3.5x5": (88.5, 99.70, 96.95), "3.5x20": (15.1, 98.26, 90.1)}
EPOCHS, RATE, BATCH = 100, 1e-3, 64


class Data:
    """Return MNIST as normalized tensors (n, 1, 28, 28)."""

    def __init__(self, path: str | None, out: Path) -> None:
        file = out / "mnist.safetensors"
        if not file.exists():
            from datasets import load_dataset

            sets = load_dataset(path or "ylecun/mnist")
            tensors = {}
            for split in ("train", "test"):
                pixels = np.stack([np.asarray(i) for i in sets[split]["image"]])
                tensors[split + ".x"] = torch.from_numpy(pixels)
                tensors[split + ".y"] = torch.tensor(sets[split]["label"])
            save_file(tensors, file)
        raw = load_file(file)
        self.x, self.x_test = (((raw[s + ".x"].float() / 255 - 0.1307) / 0.3081)[:, None] for s in ("train", "test"))
        self.y, self.y_test = raw["train.y"], raw["test.y"]
        order = torch.randperm(len(self.y_test), generator=torch.Generator().manual_seed(0))
        self.validation, self.test = order[:2000], order[2000:]

    def forgotten(self, base: int) -> torch.Tensor:
        """Draw three quarters of the threes: a boolean array (60000,)."""
        threes = (self.y == 3).nonzero().flatten()
        chosen = torch.randperm(len(threes), generator=torch.Generator().manual_seed(100 + base))
        mask = torch.zeros(len(self.y), dtype=torch.bool)
        mask[threes[chosen[: round(0.75 * len(threes))]]] = True
        return mask

    def rows(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        import datasets

        features = datasets.Features(
            {"pixel_values": datasets.Array3D((1, 28, 28), "float32"), "label": datasets.ClassLabel(10)}
        )
        rows = datasets.Dataset.from_dict({"pixel_values": x.numpy(), "label": y.numpy()}, features=features)
        return rows.with_format("numpy")


def build(seed: int) -> Any:
    from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification

    torch.manual_seed(seed)
    return PixelMLPForImageClassification(PixelMLPConfig(num_channels=1, num_labels=10))


def trained(data: Data, file: Path, seed: int, keep: torch.Tensor) -> Any:
    """Return a model that is trained on the rows `keep`. Trained models are cached."""
    model = build(seed)
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    rows = keep.nonzero().flatten()
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, foreach=True)
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for _ in range(EPOCHS):
        for part in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(data.x[part]).logits, data.y[part]).backward()
            optimiser.step()
    print(f"trained {file.stem} in {time.perf_counter() - started:.0f} s", flush=True)
    save_file(model.state_dict(), file)
    return model.eval()


@torch.no_grad()
def measure(model: Any, data: Data, forget: torch.Tensor) -> dict[str, float]:
    """Accuracy on forget, retain and test rows, in points."""

    def accuracy(x: torch.Tensor, y: torch.Tensor) -> float:
        return 100 * (model(x).logits.argmax(-1) == y).float().mean().item()

    return {
        "forget": accuracy(data.x[forget], data.y[forget]),
        "retain": accuracy(data.x[~forget], data.y[~forget]),
        "test": accuracy(data.x_test[data.test], data.y_test[data.test]),
    }


def unlearn(model: Any, data: Data, forget: torch.Tensor, sets: Any, setting: str, seed: int) -> dict[str, Any]:
    from hf_unlearn import MarginalInformation, UnlearningArguments, UnlearningTrainer

    arguments: dict[str, Any] = {"seed": seed, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    if setting.startswith("stop"):
        gamma = float(setting[4:] or MarginalInformation().gamma)
        method = MarginalInformation(gamma=gamma)
    else:
        gamma, epochs = setting.split("x")
        method = MarginalInformation(gamma=float(gamma), normalise=False)
        arguments |= {
            "num_train_epochs": float(epochs), "learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
            "forget_target": -1.0, "max_retain_drop": 1.0, "check_steps": 10_000,
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearningArguments(folder, logging_strategy="no", **arguments)
        trainer = UnlearningTrainer(model, args, method, *sets[:2], eval_dataset=sets[2])
        trainer.train()
    assert trainer.outcome is not None
    outcome = trainer.outcome
    return {
        **measure(trainer.model, data, forget), "steps": outcome.steps, "target": outcome.forget_target,
        "stopped": outcome.stopped, "seconds": trainer.seconds,
    }  # fmt: skip


def table(out: Path) -> str:
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    yardsticks = json.loads((out / "yardsticks.json").read_text())
    lines = [
        "| setting | runs | forget | retain | test | paper | gap to retrained: mean / worst original | steps |",
        "|---" * 8 + "|",
    ]
    for setting in dict.fromkeys(c["setting"] for c in cells):
        some = [c for c in cells if c["setting"] == setting]
        shown = []
        for key in ("forget", "retain", "test"):
            values = [c[key] for c in some]
            shown.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}")
        gaps = {}
        for base in {c["base"] for c in some}:
            goal = {k: statistics.mean(y[k] for y in yardsticks[str(base)]) for k in ("forget", "retain", "test")}
            gaps[base] = statistics.mean(abs(c[k] - goal[k]) for c in some if c["base"] == base for k in goal)
        steps = sorted(c["steps"] for c in some)
        paper = " / ".join(map(str, PAPER[setting])) if setting in PAPER else "–"
        lines.append(
            f"| {setting} | {len(some)} | {' | '.join(shown)} | {paper} | {statistics.mean(gaps.values()):.2f} / "
            f"{max(gaps.values()):.2f} | {steps[0]}–{steps[-1]} |"
        )
    for base, found in yardsticks.items():
        shown = [" / ".join(f"{y[k]:.2f}" for k in ("forget", "retain", "test")) for y in found]
        lines.append(f"\nRetrained, original {base}: {'; '.join(shown)}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="folder of MNIST, in place of its Hub id")
    parser.add_argument("--bases", type=int, default=3)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--yardsticks", type=int, default=2)
    parser.add_argument("--settings", nargs="+", default=["stop", "1.5x20", "3.5x5", "3.5x20"])
    parser.add_argument("--out", type=Path, default=Path("out/marginal"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(options.out))
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # a saturated network has many denormal numbers, and they are slow
    options.out.mkdir(parents=True, exist_ok=True)
    data, cells = Data(options.path, options.out), options.out / "cells.jsonl"
    done = {
        tuple(json.loads(x)[k] for k in ("base", "trial", "setting"))
        for x in (cells.read_text().splitlines() if cells.exists() else [])
    }
    known = options.out / "yardsticks.json"
    yardsticks = json.loads(known.read_text()) if known.exists() else {}
    for base in range(options.bases):
        forget = data.forgotten(base)
        original = trained(data, options.out / f"original-{base}.safetensors", base, torch.ones_like(forget))
        print(base, "original", measure(original, data, forget), flush=True)
        yardsticks[str(base)] = [
            measure(
                trained(data, options.out / f"retrained-{base}-{y}.safetensors", 1000 + 10 * base + y, ~forget),
                data,
                forget,
            )
            for y in range(options.yardsticks)
        ]
        known.write_text(json.dumps(yardsticks))
        held_out = data.rows(data.x_test[data.validation], data.y_test[data.validation])
        sets = (data.rows(data.x[forget], data.y[forget]), data.rows(data.x[~forget], data.y[~forget]), held_out)
        for setting in options.settings:
            for trial in range(options.trials):
                if (base, trial, setting) in done:
                    continue
                model = trained(data, options.out / f"original-{base}.safetensors", base, torch.ones_like(forget))
                cell = {"base": base, "trial": trial, "setting": setting}
                cell |= unlearn(model, data, forget, sets, setting, seed=100 * base + trial)
                with open(cells, "a") as file:
                    file.write(json.dumps(cell) + "\n")
                print(cell, flush=True)


if __name__ == "__main__":
    main()

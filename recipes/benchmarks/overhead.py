"""Measure what unlearning costs beside its forward and backward passes, at launch and in a step.

    python recipes/benchmarks/overhead.py [--repeats 5]

Launch: CPU seconds of a fresh process from its start to the end of the first training step, with model and data loaded from disk.
They include imports, splitting, all checks, the reference pass over the forget set, the first evaluation and the step. For
comparison, a bare script with HF `Trainer` loads the same and takes one step of plain training on the same rows.

Step: CPU time of a step of `UnlearningTrainer` at batch 64, over a loop by hand that makes the same passes and updates, with
inputs ready in memory. For comparison, the same ratio is measured for the plain HF `Trainer`.

Scripts take turns, and so do the steps of trainer and loop. The result is the median of the ratios of a repeat, with the lowest
and the highest. The script prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH, COPIES, STEPS = 64, 25, 22

COMMON = """
import sys, time
folder = sys.argv[1]
import torch
torch.set_num_threads(1)
from datasets import load_from_disk
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback, TrainingArguments

class Stop(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print("seconds", time.process_time(), flush=True)

train = load_from_disk(folder + "/train")
model = AutoModelForImageClassification.from_pretrained(folder + "/model")
processor = AutoImageProcessor.from_pretrained(folder + "/model", backend="pil")
settings = dict(output_dir=folder + "/out", max_steps=1, use_cpu=True, save_strategy="no", disable_tqdm=True,
                per_device_train_batch_size=64)
"""
BARE = """
from transformers import Trainer

def collate(rows):
    pixels = processor([r["image"].convert("RGB") for r in rows], return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixels, "labels": torch.tensor([r["label"] for r in rows])}

args = TrainingArguments(remove_unused_columns=False, optim="sgd", **settings)
Trainer(model=model, args=args, train_dataset=train, data_collator=collate, callbacks=[Stop()]).train()
"""
OURS = """
from hf_unlearn import METHODS, ForgetRequest, UnlearningArguments, UnlearningTrainer

split = ForgetRequest(label="3").split(train)
UnlearningTrainer(model=model, args=UnlearningArguments(overwrite=True, **settings), method=METHODS[sys.argv[2]](),
                  forget_dataset=split.forget, retain_dataset=split.retain, processing_class=processor,
                  callbacks=[Stop()]).train()
"""


def write_inputs(folder: Path) -> None:
    """Save scikit-learn's digits and an untrained ViT, as a user would have them on disk."""
    model, processor = small_vit()
    from hf_unlearn.data.loading import load_digits

    load_digits()["train"].save_to_disk(folder / "train")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")


def small_vit() -> tuple[Any, Any]:
    """The ViT of `recipes/digits-vit`, and its image processor."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    from hf_unlearn.pipeline.original import build_processor

    config = AutoConfig.from_pretrained(Path(__file__).parents[1] / "digits-vit" / "config.json", num_labels=10)
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config), build_processor(config, None)  # type: ignore[arg-type]


def launch(repeats: int) -> dict[str, Any]:
    scripts = {"bare": [BARE], "jit": [OURS, "jit"], "gradient_difference": [OURS, "gradient_difference"]}
    seconds: dict[str, list[float]] = {name: [] for name in scripts}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        for turn in range(repeats + 1):  # the first run fills the caches of files and bytecode, and does not count
            for name, (script, *words) in scripts.items():
                command = [sys.executable, "-c", COMMON + script, folder, *words]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                line = next(x for x in done.stdout.splitlines() if x.startswith("seconds"))
                if turn:
                    seconds[name].append(float(line.split()[1]))
    bare = seconds.pop("bare")
    return {"bare_seconds": round(statistics.median(bare), 2)} | {k: ratios(v, bare) for k, v in seconds.items()}


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    found = sorted(a / b - 1 for a, b in zip(ours, theirs, strict=True))
    return {
        "overhead": round(statistics.median(found), 4),
        "lowest": round(found[0], 4),
        "highest": round(found[-1], 4),
    }


# --- a step -----------------------------------------------------------------------------------------------------------


def paired(make: Callable[[Any], Any], model: Any, loss: Callable[[Any], Any]) -> tuple[float, float]:
    """Return the CPU seconds of a trainer's steps and of as many steps by hand, in turn, without the first two of each.

    Args:
        make: makes the trainer, given its callback.
        model, loss: for the loop by hand, which is only loss, backward pass and update.
    """
    import torch
    from transformers import TrainerCallback

    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
    times: list[tuple[float, float]] = []

    class Turns(TrainerCallback):
        last = 0.0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ours = time.process_time() - self.last
            started = time.process_time()
            loss(model).backward()
            optimiser.step()
            optimiser.zero_grad()
            times.append((ours, time.process_time() - started))
            self.last = time.process_time()

    make(Turns()).train()
    return sum(a for a, _ in times[2:]), sum(b for _, b in times[2:])


def step(repeats: int) -> dict[str, Any]:
    import copy

    import torch
    import torch.nn.functional as F
    from transformers import Trainer, TrainingArguments

    from hf_unlearn import ForgetRequest, GradientDifference, JiT, UnlearningArguments, UnlearningTrainer
    from hf_unlearn.data.loading import load_digits
    from hf_unlearn.data.pairs import PreparedRows
    from hf_unlearn.models.processor import Processor

    torch.set_num_threads(1)
    model, image_processor = small_vit()
    model.eval()
    processor = Processor(model, image_processor)
    split = ForgetRequest(fraction=0.5).split(load_digits()["train"])
    batches = []
    for rows in (split.forget, split.retain):
        batch = processor.collate([processor(r) for r in rows.select(range(BATCH))])
        batches.append((batch["pixel_values"], batch["labels"]))
    (x, y), (kept, kept_labels) = batches
    low, high, spread = x.min().item(), x.max().item(), x.std().item()
    common: dict[str, Any] = {
        "max_steps": STEPS, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "per_device_train_batch_size": BATCH,
        "optim": "sgd", "learning_rate": 1e-6, "max_grad_norm": 0.0, "logging_steps": 10,
    }  # fmt: skip
    folder = tempfile.mkdtemp()

    def unlearning(method: Any) -> Callable[[Any], Any]:
        args = UnlearningArguments(
            folder, update="all", trust_region=0.0, forget_target=-1.0, forget_kind="samples", check_steps=10_000,
            max_retain_drop=1.0, **common,
        )  # fmt: skip

        def make(callback: Any) -> Any:
            trainer = UnlearningTrainer(
                copy.deepcopy(model), args, method, split.forget, split.retain, processing_class=image_processor,
                callbacks=[callback],
            )  # fmt: skip
            list(trainer.unlearning_data.retain or ())  # rows are prepared once, and stay in memory
            return trainer

        return make

    def training(callback: Any) -> Any:
        rows = PreparedRows(split.forget, processor)
        list(rows)
        args = TrainingArguments(folder, remove_unused_columns=False, **common)
        return Trainer(copy.deepcopy(model), args, processor.collate, rows, callbacks=[callback])

    def jit_loss(m: Any) -> Any:
        clean = m(pixel_values=x).logits
        total = 0.0
        for _ in range(COPIES):
            noisy = (x + spread * torch.randn_like(x)).clamp(low, high)
            with torch.no_grad():
                out = m(pixel_values=noisy).logits
            distance = torch.linalg.vector_norm((x - noisy).flatten(1), dim=1)
            total = total + (torch.linalg.vector_norm(clean - out, dim=1) / distance).sum()
        return total / COPIES / BATCH

    def difference_loss(m: Any) -> Any:
        forget = F.cross_entropy(m(pixel_values=x).logits, y)
        return F.cross_entropy(m(pixel_values=kept).logits, kept_labels) - forget

    def plain_loss(m: Any) -> Any:
        return F.cross_entropy(m(pixel_values=x).logits, y)

    jit = JiT(num_perturbations=COPIES, rows_per_forward=BATCH, precision="float32", anchors=False)
    pairs: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "jit": (unlearning(jit), jit_loss),
        "gradient_difference": (unlearning(GradientDifference()), difference_loss),
        "plain HF Trainer": (training, plain_loss),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    with contextlib.redirect_stdout(sys.stderr):
        for _ in range(repeats):
            for name, (make, loss) in pairs.items():
                times[name].append(paired(make, copy.deepcopy(model), loss))
    shutil.rmtree(folder)
    return {
        name: ratios([a for a, _ in found], [b for _, b in found])
        | {"by_hand_ms": round(1000 * statistics.median(b for _, b in found) / (STEPS - 2), 2)}
        for name, found in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("launch", "step"))
    options = parser.parse_args()
    measured = {f.__name__: f(options.repeats) for f in (launch, step) if options.only in (None, f.__name__)}
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()

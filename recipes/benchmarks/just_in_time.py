"""Measure time and memory of a step on a GPU: JiT against the official loop and against its bare passes, other methods against training.

    python recipes/benchmarks/just_in_time.py                              # a CUDA device: ViT-B/16 and ResNet-50, 224 pixels
    python recipes/benchmarks/just_in_time.py --device cpu --small --rounds 2

Models come from configurations with random weights, and the images are random. JiT takes N = 25 noisy copies of a batch of 128, in
float32 and under bfloat16 autocast. The official loop, restated here, runs the copies one after another, and one clean forward
and backward pass. The floor is these passes alone, without noise and distances. `jit` makes the same passes in the same
precision. `jit, half` makes the noisy ones on a bfloat16 copy of the model, as a run does if its check at the start allows it.
IT-reg (marginal, feature) and UIB, with the update, are compared with a plain training step on the same rows (UIB with one on its
retain rows).

Steps take turns after one round that does not count, and the median counts. Peak memory is that of the step above what the model
takes. The script prints one JSON object, and writes it to `--out` if given. The exit code is 1 if something could not be measured.
Without a CUDA device, `--device auto` prints why nothing was measured, and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

CLASSES, SIGMA = 100, 0.5
Step = Callable[[], torch.Tensor]


def models(small: bool) -> dict[str, Callable[[], Any]]:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    vit: dict[str, Any] = {"num_labels": CLASSES}
    resnet: dict[str, Any] = {"num_labels": CLASSES}
    if small:
        vit |= {
            "image_size": 32, "patch_size": 4, "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3,
            "intermediate_size": 768,
        }  # fmt: skip
        resnet |= {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    return {
        "vit 192x12" if small else "vit-b/16": lambda: ViTForImageClassification(ViTConfig(**vit)),
        "resnet-18" if small else "resnet-50": lambda: ResNetForImageClassification(ResNetConfig(**resnet)),
    }


def official_loss(model: Any, x: torch.Tensor, copies: int) -> torch.Tensor:
    """The loop of the authors, written again: the mean over copies of the summed ratios of output to input distance."""
    clean = model(pixel_values=x).logits
    low, high, loss = x.min(), x.max(), torch.zeros((), device=x.device)
    for _ in range(copies):
        noisy = torch.clamp(x + SIGMA * torch.randn_like(x), low, high)
        with torch.no_grad():
            out = model(pixel_values=noisy).logits
        distance = torch.linalg.vector_norm((x - noisy).flatten(1), dim=1)
        loss = loss + (torch.linalg.vector_norm(clean - out, dim=1) / distance).sum()
    return loss / copies


def passes_alone(model: Any, x: torch.Tensor, copies: int) -> torch.Tensor:
    with torch.no_grad():
        for _ in range(copies):
            model(pixel_values=x)
    return model(pixel_values=x).logits.sum()


def jit_steps(model: Any, x: torch.Tensor, copies: int, half: bool) -> dict[str, Step]:
    """Forward and backward passes, with all outputs summed over the batch."""
    from hf_unlearn import JiT
    from hf_unlearn.methods.just_in_time import HalfCopy

    batch = {"forget": {"pixel_values": x}, "index": torch.arange(len(x)), "seed": torch.arange(len(x)), "share": 1.0}
    reference: Any = SimpleNamespace(forgotten_classes=())

    def ours(on_half_copy: bool) -> Step:
        method = JiT(
            sigma=SIGMA, num_perturbations=copies, relative=False, remembered_only=False, reduction="sum", outputs="all",
        )  # fmt: skip
        method._sigma, method._range = SIGMA, (x.min().item(), x.max().item())
        method._half = HalfCopy(model) if on_half_copy else None
        return lambda: method.loss(model, batch, reference)["flatness"]

    steps = {
        "official": lambda: official_loss(model, x, copies),
        "floor": lambda: passes_alone(model, x, copies),
        "jit": ours(False),
    }
    return steps | ({"jit, half": ours(True)} if half else {})


def other_steps(model: Any, x: torch.Tensor) -> dict[str, tuple[Step, Callable[[], None]]]:
    """Return for each name the loss, and what follows the update. A fifth of the rows is to be forgotten."""
    from hf_unlearn import UIB, FeatureInformation, MarginalInformation

    cut = len(x) // 5 or 1
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (len(x),), generator=generator).to(x.device)
    forget, kept = ({"pixel_values": x[part], "labels": y[part]} for part in (slice(cut), slice(cut, None)))
    pair = {"forget": forget, "retain": kept, "index": torch.arange(cut), "seed": torch.arange(cut), "share": 1.0}
    groups = torch.arange(len(x), device=x.device) % 2
    whole = {"retain": {"pixel_values": x, "labels": y}, "group": groups, "share": 1.0}
    trainer: Any = SimpleNamespace(
        reference=SimpleNamespace(logits=torch.zeros(1, CLASSES)), model=model, group_names=["a", "b"],
        args=SimpleNamespace(world_size=1), patch=None,
    )  # fmt: skip
    marginal, feature, uib = MarginalInformation(), FeatureInformation(attribute="group"), UIB()
    for method in (marginal, feature):
        method.setup(trainer)
    # a prior as `setup` leaves it: a mean near the weights, a precision of mean 1, the outputs at the mean
    uib._mean = {n: p.detach() * 1.001 for n, p in model.named_parameters()}
    uib._precision = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    uib._prior_outputs = torch.full((cut, CLASSES), 1 / CLASSES)

    def total(method: Any, batch: Any) -> Step:
        return lambda: torch.stack(list(method.loss(model, batch, None).values())).sum()

    def plain(side: dict[str, torch.Tensor]) -> Step:
        return lambda: F.cross_entropy(model(pixel_values=side["pixel_values"]).logits.float(), side["labels"])

    return {
        "training": (plain(whole["retain"]), lambda: None),  # type: ignore[arg-type]
        "training on the retain rows": (plain(kept), lambda: None),
        "marginal information": (total(marginal, pair), lambda: marginal.adjust_gradients(model)),
        "feature information": (total(feature, whole), lambda: feature.adjust_gradients(model)),
        "uib": (total(uib, pair), lambda: uib.after_step(model, 1e-6, 1e-6)),
    }


# --- measuring --------------------------------------------------------------------------------------------------------


class Meter:
    """Measure seconds and peak memory of steps, and check that each did what its name says."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.cuda = model, device.type == "cuda"
        self.optimiser = torch.optim.SGD(model.parameters(), lr=1e-9)
        self.rows = 0
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, list[int]] = {}
        self.losses: dict[str, float] = {}

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def counted(self, runner: Any) -> Iterator[None]:
        def count(module: Any, inputs: Any, output: Any) -> None:
            self.rows += len(output.logits)

        hook = runner.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()

    def run(self, name: str, loss: Step, after: Callable[[], None] | None = None, kept: bool = True) -> None:
        """Take one step: loss, backward pass, and with `after` the update and what follows it."""
        self.model.zero_grad(set_to_none=True)
        self.wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        started = time.perf_counter()
        value = loss()
        value.backward()
        if after is not None:
            self.optimiser.step()
            after()
        self.wait()
        seconds = time.perf_counter() - started
        gradient = sum(p.grad.abs().sum().item() for p in self.model.parameters() if p.grad is not None)
        if not (math.isfinite(value.item()) and math.isfinite(gradient) and gradient > 0):
            raise RuntimeError(
                f"{name}: the loss is {value.item()} and the gradient {gradient}, so nothing was measured."
            )
        if kept:
            self.seconds.setdefault(name, []).append(seconds)
            self.losses[name] = value.item()
            if self.cuda:
                self.peaks.setdefault(name, []).append(torch.cuda.max_memory_allocated() - before)

    def table(self, rows: int) -> dict[str, Any]:
        found = {}
        for name, seconds in self.seconds.items():
            middle = statistics.median(seconds)
            found[name] = {
                "ms": round(1000 * middle, 3),
                "ms_lowest": round(1000 * min(seconds), 3),
                "samples_per_second": round(rows / middle, 1),
                "peak_mib": round(max(self.peaks[name]) / 2**20, 1) if name in self.peaks else None,
            }
        return found

    def ratio(self, a: str, b: str) -> float:
        return round(statistics.median(x / y for x, y in zip(self.seconds[a], self.seconds[b], strict=True)), 3)


def measure(name: str, make: Callable[[], Any], precision: str, options: argparse.Namespace) -> dict[str, Any]:
    from hf_unlearn.methods.just_in_time import bfloat16_is_fast

    device = torch.device(options.device)
    torch.manual_seed(0)
    model = make().to(device).eval()
    size = 32 if options.small else 224
    x = torch.rand(options.batch, 3, size, size, device=device) * 2 - 1
    amp = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    meter = Meter(model, device)
    half = precision == "fp32" and bfloat16_is_fast(model)
    steps = jit_steps(model, x, options.copies, half)
    with amp:
        for label in ("official", "jit"):  # the same passes, by rows and by outcome
            with meter.counted(model):
                meter.rows = 0
                meter.run(label, steps[label], kept=False)
            if meter.rows != (expected := (options.copies + 1) * options.batch):
                raise RuntimeError(f"{label}: {meter.rows} rows went forward, {expected} expected.")
        for turn in range(options.rounds + 1):
            for label, step in steps.items():
                meter.run(label, step, kept=turn > 0)
    difference = abs(meter.losses["jit"] / meter.losses["official"] - 1)
    if difference > 0.1:
        raise RuntimeError(
            f"`jit` and the official loop differ by {difference:.1%} in their loss, so they cannot be compared."
        )
    found: dict[str, Any] = {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": precision,
        "pixels": size,
        "jit": {
            "steps": meter.table(options.batch),
            "official_over_jit": meter.ratio("official", "jit"),
            "jit_over_floor": meter.ratio("jit", "floor"),
            "loss_difference": round(difference, 5),
        },
    }
    if half:
        found["jit"] |= {
            "official_over_jit_half": meter.ratio("official", "jit, half"),
            "jit_half_over_floor": meter.ratio("jit, half", "floor"),
            "loss_difference_half": round(abs(meter.losses["jit, half"] / meter.losses["official"] - 1), 5),
        }
    del steps
    meter = Meter(model, device)
    others = other_steps(model, x)
    with amp:
        for turn in range(options.rounds + 1):
            for label, (loss, after) in others.items():
                meter.run(label, loss, after, kept=turn > 0)
    plain = {"uib": "training on the retain rows"}
    found["others"] = {
        "steps": meter.table(options.batch),
        "over_training": {
            label: meter.ratio(label, plain.get(label, "training"))
            for label in meter.seconds
            if not label.startswith("training")
        },
    }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--small", action="store_true", help="ViT 192 wide and ResNet-18, 32 pixels, batch 64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--models", nargs="+", help="names to leave the others out")
    parser.add_argument("--out", help="also write the JSON there")
    options = parser.parse_args()
    options.batch = options.batch or (64 if options.small else 128)
    if options.rounds < 1 or options.copies < 1:
        parser.error("`--rounds` and `--copies` must be at least 1, or there is nothing to measure.")
    if options.device != "cpu" and not torch.cuda.is_available():
        reason = "no CUDA device. On a CPU: --device cpu --small."
        if options.device == "cuda":
            parser.error(f"`--device cuda`: {reason}")
        print(json.dumps({"skipped": reason}))
        return 0
    options.device = "cpu" if options.device == "cpu" else "cuda"
    makers = models(options.small)
    if unknown := set(options.models or makers) - set(makers):
        parser.error(f"`--models` has {', '.join(sorted(unknown))}; there are {', '.join(makers)}.")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "batch": options.batch, "copies": options.copies,
        "rounds": options.rounds, "results": [], "failed": [],
    }  # fmt: skip
    for name in options.models or makers:
        for precision in options.precision:
            try:
                found["results"].append(measure(name, makers[name], precision, options))
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                found["failed"].append({"model": name, "precision": precision, "error": str(error).split("\n")[0]})
            if options.device == "cuda":
                torch.cuda.empty_cache()
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")
    return 1 if found["failed"] or not found["results"] else 0


if __name__ == "__main__":
    sys.exit(main())

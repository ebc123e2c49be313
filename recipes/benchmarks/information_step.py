"""Measure the time of an IT-reg step over that of an ordinary training step on the same rows.

    python recipes/benchmarks/information_step.py [--rounds 20]

A step is forward and backward of a ViT (96 wide, 6 layers, 32×32 pixels) or of an MLP on 64 retain and 16 forget rows. The
ordinary step is cross-entropy on all 80. The steps take turns. The result is the median of the CPU time, because other programs
may use the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F


def models() -> dict[str, Any]:
    from transformers import ViTConfig, ViTForImageClassification

    from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification

    shape = {"image_size": 32, "patch_size": 4, "hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4}
    return {
        "vit": ViTForImageClassification(ViTConfig(intermediate_size=192, num_labels=10, **shape)),
        "mlp": PixelMLPForImageClassification(PixelMLPConfig(image_size=32, num_labels=10)),
    }


def methods(model: Any) -> dict[str, Any]:
    """The three forms of IT-reg, set up as a trainer sets them up."""
    from hf_unlearn import FeatureInformation, MarginalInformation

    trainer: Any = SimpleNamespace(
        reference=SimpleNamespace(logits=torch.zeros(1, 10)), args=SimpleNamespace(world_size=1), model=model,
        group_names=["a", "b"], patch=None,
    )  # fmt: skip
    out = {
        "marginal": MarginalInformation(),
        "marginal, kl": MarginalInformation(utility="kl"),
        "feature": FeatureInformation(attribute="group"),
    }
    for method in out.values():
        method.setup(trainer)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for name, model in models().items():
        torch.manual_seed(0)
        model.eval()
        x, y, group = torch.randn(80, 3, 32, 32), torch.randint(10, (80,)), torch.randint(2, (80,))
        pair = {
            "retain": {"pixel_values": x[:64], "labels": y[:64]},
            "forget": {"pixel_values": x[64:], "labels": y[64:]},
        }
        whole = {"retain": {"pixel_values": x, "labels": y}, "group": group}
        steps: dict[str, Any] = {"ordinary": lambda m=model, a=x, b=y: F.cross_entropy(m(a).logits, b)}
        for key, method in methods(model).items():
            batch = whole if key == "feature" else pair
            steps[key] = lambda m=model, o=method, b=batch: sum(o.loss(m, b, None).values())
        times: dict[str, list[float]] = {key: [] for key in steps}
        for turn in range(rounds + 2):
            for key, step in steps.items():
                started = time.process_time()
                step().backward()
                if turn >= 2:
                    times[key].append(time.process_time() - started)
                model.zero_grad()
        ordinary = statistics.median(times["ordinary"])
        ratios = {k: round(statistics.median(v) / ordinary, 3) for k, v in times.items()}
        print(name, f"ordinary {1000 * ordinary:.1f} ms", ratios)


if __name__ == "__main__":
    main()

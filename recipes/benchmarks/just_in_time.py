"""Time of a JiT step against the restated official loop and against the floor, in one run.

    python recipes/benchmarks/just_in_time.py [--rounds 3] [--copies 25] [--batch 64]

The official loop runs N noisy copies of the batch one after another in float32 and one clean forward and backward. The floor
is what N + 3 forwards of that batch take. Rounds are interleaved and the fastest counts, for the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import time
from types import SimpleNamespace
from typing import Any

import torch


def models() -> dict[str, Any]:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    vit = {"image_size": 32, "patch_size": 4, "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}
    return {
        "vit 192x12": ViTForImageClassification(
            ViTConfig(
                intermediate_size=768, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=10, **vit
            )
        ),
        "resnet-18": ResNetForImageClassification(
            ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10)
        ),
    }


def official_step(model: Any, x: torch.Tensor, sigma: float, copies: int) -> float:
    """The authors' loop, restated: mean over copies of the summed ratios of output to input distance."""
    clean = model(pixel_values=x).logits
    low, high, loss = x.min(), x.max(), 0.0
    for _ in range(copies):
        noisy = torch.clamp(x + sigma * torch.randn_like(x), low, high)
        with torch.no_grad():
            out = model(pixel_values=noisy).logits
        distance = torch.linalg.vector_norm((x - noisy).flatten(1), dim=1)
        loss = loss + (torch.linalg.vector_norm(clean - out, dim=1) / distance).sum()
    loss = loss / copies
    loss.backward()
    return loss.item()


def main() -> None:
    from hf_unlearn import JiT
    from hf_unlearn.methods.just_in_time import HalfCopy, bfloat16_is_fast

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=0.5)
    options = parser.parse_args()
    for name, model in models().items():
        torch.manual_seed(0)
        model.eval()
        x = torch.rand(options.batch, 3, 32, 32) * 2 - 1
        method = JiT(
            sigma=options.sigma, num_perturbations=options.copies, relative=False, remembered_only=False, reduction="sum",
            outputs="all", clamp="batch", rows_per_forward=options.batch,
        )  # fmt: skip
        method._sigma, method._range = options.sigma, None
        method._half = HalfCopy(model) if bfloat16_is_fast(model) else None
        batch = {
            "forget": {"pixel_values": x},
            "index": torch.arange(options.batch),
            "seed": torch.arange(options.batch),
        }

        def ours(model: Any = model, method: JiT = method, batch: dict[str, Any] = batch) -> float:
            loss = method.loss(model, batch, SimpleNamespace(forgotten_classes=()))["flatness"]  # type: ignore[arg-type]
            loss.backward()
            return loss.item()

        def forward(model: Any = model, x: torch.Tensor = x) -> float:
            with torch.no_grad():
                return model(pixel_values=x).logits.sum().item()

        def official(model: Any = model, x: torch.Tensor = x) -> float:
            return official_step(model, x, options.sigma, options.copies)

        best, values = {}, {}
        for _ in range(options.rounds):
            for label, run in (("ours", ours), ("official", official), ("forward", forward)):
                model.zero_grad()
                started = time.perf_counter()
                values[label] = run()
                best[label] = min(best.get(label, float("inf")), time.perf_counter() - started)
        print(
            json.dumps(
                {
                    "model": name,
                    "official_over_ours": round(best["official"] / best["ours"], 2),
                    "ours_over_floor": round(best["ours"] / ((options.copies + 3) * best["forward"]), 2),
                    "loss_difference": round(abs(values["ours"] - values["official"]) / values["official"], 5),
                    "noisy_precision": "float32" if method._half is None else "bfloat16",
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()

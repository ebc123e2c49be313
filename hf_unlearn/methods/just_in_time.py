"""JiT: zero-shot unlearning that flattens the function around each forget point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..processing import classify, continuous_input, eval_mode, model_inputs, repeat_inputs
from .base import Paper, UnlearningMethod, setting

if TYPE_CHECKING:
    from torch import nn

    from ..reference import Reference
    from ..trainer import UnlearningTrainer


@dataclass(kw_only=True)
class JiT(UnlearningMethod):
    """Just in time unlearning (Foster et al., "An Information Theoretic Approach to Machine Unlearning", arXiv 2402.01401).

    Needs forget inputs only: no labels, no retain set. With f the logits and N perturbed copies of each sample,

        L(θ) = (1/N) Σ_j Σ_i ‖f(x_i) − sg[f(x'_ij)]‖₂ / ‖x_i − x'_ij‖₂,    x'_ij = clamp(x_i + σ ξ_ij),  ξ ~ N(0, I)

    Only the clean forward has a gradient, ∂L/∂f(x_i) = (1/N) Σ_j (f(x_i) − f(x'_ij)) / (r_ij d_ij) with r and d the output
    and input distances, so the copies are stacked, run without a graph, and memory stays that of an ordinary step.

    As published [source]: sum over the batch, plain SGD, every sample, one pass: `JiT.paper_arguments(...)`. Ours [derived]:
    σ in units of the inputs' standard deviation, mean over the batch, eval behaviour, the gradient of the samples that are
    still remembered only, under the trainer's trust region and stopping rule.

    Example:
        ```python
        trainer = UnlearningTrainer(model=model, args=UnlearningArguments(output_dir="out"), method=JiT(),
                                    forget_dataset=split.forget, processing_class=processor)
        trainer.train()
        ```
    """

    name: ClassVar[str] = "jit"
    paper: ClassVar[Paper | None] = Paper("An Information Theoretic Approach to Machine Unlearning", "2402.01401")
    stops_at_target: ClassVar[bool] = True
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"update": "head", "trust_region": 0.02, "max_steps": 200, "check_steps": 5}
    )

    sigma: float = setting(0.5, "Standard deviation of the noise, in units of the inputs' own (see `relative`).")
    num_perturbations: int = setting(25, "N, the noisy copies of each sample.")
    relative: bool = setting(True, "σ is relative to the inputs' standard deviation; off: in the inputs' own units.")
    clamp: str = setting("dataset", "Range that noisy pixels are clamped to: of the forget `dataset` or of the `batch`.")
    remembered_only: bool = setting(True, "Only samples that the model still puts where the original did have a gradient.")
    reduction: str = setting("mean", "`mean` over the samples of a batch, or `sum` as in the paper's code.")
    mode: str = setting("eval", "`eval`, or `train`: dropout and BatchNorm as in the paper's code.")
    copies_per_forward: int = setting(5, "Noisy copies that are stacked into one forward pass: memory against speed.")

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"`sigma` must be positive, got {self.sigma}: without noise every distance is 0/0.")
        if self.num_perturbations < 1:
            raise ValueError(f"`num_perturbations` must be at least 1, got {self.num_perturbations}.")
        if self.copies_per_forward < 1:
            raise ValueError(f"`copies_per_forward` must be at least 1, got {self.copies_per_forward}.")
        for name, allowed in (("clamp", ("dataset", "batch")), ("reduction", ("mean", "sum")), ("mode", ("eval", "train"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}={getattr(self, name)!r}` is not one of {', '.join(map(repr, allowed))}.")

    @classmethod
    def paper_arguments(cls, task: str = "full_class", network: str = "vit", momentum: float = 1.0) -> dict[str, Any]:
        """The authors' settings: `{"method": JiT(...), "arguments": {...}}`, the second for `UnlearningArguments`.

        `momentum=1.0` reproduces their code, which never zeroes the gradients; 0.0 is the algorithm as written.

        Args:
            task: `full_class` (CIFAR-100, PinsFace), `sub_class` (CIFAR-20) or `random` (CIFAR-10).
            network: `vgg11` or `vit`.
        """
        table = {  # σ, learning rate, batch size
            ("full_class", "vgg11"): (0.5, 3e-4, 128),
            ("full_class", "vit"): (0.8, 1.5, 128),
            ("sub_class", "vgg11"): (0.01, 3e-4, 64),
            ("sub_class", "vit"): (1.5, 0.5, 64),
            ("random", "vgg11"): (0.01, 3e-4, 128),
            ("random", "vit"): (0.5, 0.1, 128),
        }
        if (task, network) not in table:
            raise ValueError(f"`task={task!r}`, `network={network!r}`: the paper has {', '.join(f'{t}/{n}' for t, n in table)}.")
        sigma, learning_rate, batch = table[task, network]
        return {
            "method": cls(
                sigma=sigma,
                relative=False,
                clamp="batch",
                remembered_only=False,
                reduction="sum",
                mode="train",
                copies_per_forward=1,
            ),
            "arguments": {
                "update": "all",
                "trust_region": 0.0,
                "forget_target": -1.0,
                "optim": "sgd",
                "momentum": momentum,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "constant",
                "weight_decay": 0.0,
                "max_grad_norm": 0.0,
                "num_train_epochs": 1.0,
                "max_steps": -1,
                "per_device_train_batch_size": batch,
                "train_sampling_strategy": "sequential",
            },
        }

    def setup(self, trainer: UnlearningTrainer) -> None:
        reference = trainer.reference
        if reference.input_max <= reference.input_min:
            raise ValueError(
                "`forget_dataset`: every input has the same constant value, so noise has no room after clamping. Check the "
                "image processor's output."
            )
        self._sigma = self.sigma * (reference.input_std if self.relative else 1.0)
        self._range = (reference.input_min, reference.input_max)
        # A sum must not be averaged over processes and accumulation steps.
        parts = trainer.args.world_size * trainer.args.gradient_accumulation_steps
        self._parts = float(parts)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        inputs, seeds = model_inputs(batch["forget"]), batch["seed"]
        with eval_mode(model) if self.mode == "eval" else nullcontext():
            logits = classify(model, inputs).float()
            keep = None
            if self.remembered_only:
                keep = reference.remembered(logits.detach(), batch["index"])
                if not keep.any():
                    return {"flatness": logits.sum() * 0.0}
            chosen, clean = inputs, logits
            if keep is not None and not keep.all():
                chosen = {k: v[keep] if isinstance(v, Tensor) else v for k, v in inputs.items()}
                seeds, clean = seeds[keep], logits[keep]
            noisy, distance = self.perturbed_logits(model, chosen, seeds)
        total = clean.new_zeros(())
        for noisy_j, d_j in zip(noisy, distance, strict=True):
            slope = torch.linalg.vector_norm(clean - noisy_j, dim=-1) / d_j.clamp_min(torch.finfo(d_j.dtype).tiny)
            total = total + torch.where(d_j > 0, slope, 0.0).sum()
        total = total / self.num_perturbations
        return {"flatness": total / len(logits) if self.reduction == "mean" else total * self._parts}

    @torch.no_grad()
    def perturbed_logits(self, model: nn.Module, inputs: Mapping[str, Any], seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, B, classes) of the noisy copies and their distances (N, B) to the clean inputs after clamping."""
        x, mask = continuous_input(model, inputs)
        low, high = (x.min(), x.max()) if self.clamp == "batch" else self._range
        images = "pixel_values" in inputs
        generators = [torch.Generator(device=x.device).manual_seed(s) for s in seeds.tolist()]
        logits, distances = [], []
        for start in range(0, self.num_perturbations, self.copies_per_forward):
            copies = min(self.copies_per_forward, self.num_perturbations - start)
            shifted = x + self._sigma * torch.stack([gaussian_like(x, mask, generators) for _ in range(copies)])
            if images:
                shifted = shifted.clamp(low, high)
            distances.append(torch.linalg.vector_norm((x - shifted).flatten(2), dim=-1))
            flat = shifted.flatten(0, 1)
            logits.append(classify(model, repeat_inputs(inputs, copies), lambda _, flat=flat: flat).float())
        return torch.cat(logits).view(self.num_perturbations, len(x), -1), torch.cat(distances).float()


def gaussian_like(x: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of x's shape, zero on padding; row i is drawn from `generators[i]` alone.

    So a sample's noise depends on its own seed, not on its batch, its padding or the process that holds it.
    """
    if mask.ndim == 0:
        return torch.stack([torch.randn(x.shape[1:], generator=g, device=x.device, dtype=x.dtype) for g in generators])
    noise = torch.zeros_like(x)
    for row, real, g in zip(noise, mask[..., 0] > 0, generators, strict=True):
        row[real] = torch.randn((int(real.sum()), x.shape[-1]), generator=g, device=x.device, dtype=x.dtype)
    return noise

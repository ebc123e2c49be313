"""JiT: unlearning without retain data, which flattens the function around each forget point."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.forward import (
    classify,
    classify_by_length,
    continuous_input,
    eval_mode,
    model_inputs,
    repeat_inputs,
    unwrap,
)
from ..models.reference import Reference
from ..utils.argument_checks import check_counts
from ..utils.distributed import in_any_process, in_parallel, range_over_processes
from .base import Paper, UnlearningMethod, setting
from .components.pooled_sums import over_share
from .protocols import UnlearningRun

HEAD_STEPS = {
    "update": "head",
    "trust_region": 0.05,
    "max_steps": 60,
    "check_steps": 2,
    "per_device_train_batch_size": 8,
}
ALL_STEPS = {"trust_region": 0.002, "max_steps": 120, "check_steps": 20, "per_device_train_batch_size": 32}
ROW_STEPS = {"update": "all", "trust_region": 5e-4, "max_steps": 8, "check_steps": 1, "per_device_train_batch_size": 64}
PROBED_COPIES = 8  # of each row, that tell if bfloat16 is precise enough: both precisions read the same noise
CHOICES = {
    "outputs": ("auto", "all"),
    "clamp": ("dataset", "batch"),
    "reduction": ("mean", "sum"),
    "mode": ("eval", "train"),
    "precision": ("auto", "float32", "bfloat16"),
}
PUBLISHED = {  # task, network -> σ, learning rate, batch size
    ("full_class", "vgg11"): (0.5, 3e-4, 128),
    ("full_class", "vit"): (0.8, 1.5, 128),
    ("sub_class", "vgg11"): (0.01, 3e-4, 64),
    ("sub_class", "vit"): (1.5, 0.5, 64),
    ("random", "vgg11"): (0.01, 3e-4, 128),
    ("random", "vit"): (0.5, 0.1, 128),
}


@dataclass(kw_only=True)
class JiT(UnlearningMethod):
    """Flatten the logits around each forget point, so that the decision boundary moves over it (after Foster et al.).
    The defaults are a variant of ours: for a class they move the head alone, by the one logit of that class.

    With f the logits and N perturbed copies of each input x_i,

        L(θ) = (1/N) Σ_j Σ_i ‖f(x_i) − sg[f(x'_ij)]‖₂ / ‖x_i − x'_ij‖₂,    x'_ij = clamp(x_i + σ ξ_ij),  ξ ~ N(0, I)

    | forget set | retain set | forward passes a step | extra memory |
    |---|---|---|---|
    | inputs | not read | 1 with gradient, N without | none; a bfloat16 copy of a large model |

    Only the clean forward has a gradient, v_i = ∂L/∂f(x_i) = (1/N) Σ_j (f(x_i) − f(x'_ij)) / (r_ij d_ij) with r and d the output
    and input distances [derived]. So the copies are stacked and run without a graph.

    *As published* [source: arXiv 2402.01401, Algorithm 1, and its code]: sum over the batch, plain SGD, every row, one pass. See
    `JiT.paper_arguments`. *By default* [ours]: σ and distances in units of the inputs' own spread, mean over the batch, and
    only rows that are still remembered have a gradient. If a whole class c is forgotten, the gradient is |v_ic| on the logit
    of c alone, which lowers that logit: flattening all logits moves the kept ones too (it lost up to 21 points of kept accuracy
    at σ = 0.5, this loses none). For single rows v stays at the predicted class. Text is perturbed in its embeddings.

    Use it if there is no retain set and time is short. Do not use it if the representation itself must forget: by default only
    the head moves, and the class is soon relearned.

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
    backends: ClassVar[frozenset[str]] = frozenset({"single", "ddp", "deepspeed"})
    reasons: ClassVar[Mapping[str, str]] = {
        "fsdp": "only rows that are still remembered are perturbed, so processes run forward unequally often and would hang"
    }
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"sigma": (0.2, 3.0)}
    arguments: ClassVar[Mapping[str, Any]] = HEAD_STEPS

    anchors: bool | None = setting(
        None,
        "Also keep outputs on counterfactual anchors. None: if more than the head moves and no retain set is given.",
    )
    anchor_weight: float = setting(3.0, "Weight λ of the KL divergence on the anchors.")

    sigma: float = setting(1.0, "Standard deviation σ of the noise, in the units that `relative` says.")
    num_perturbations: int = setting(25, "Number N of noisy copies of each row.")
    relative: bool = setting(True, "Measure σ and distances in units of the inputs' standard deviation.")
    outputs: str = setting(
        "auto",
        "Flatten `all` logits or, with `auto`, those of the forgotten classes (single rows: of the predicted class).",
    )
    clamp: str = setting("dataset", "Clamp noisy pixels to the range of the whole forget `dataset` or of the `batch`.")
    remembered_only: bool = setting(True, "Take gradients only on rows still classified as by the original.")
    reduction: str = setting("mean", "Take the `mean` over the rows of a batch or, as the paper's code, the `sum`.")
    mode: str = setting("eval", "Run in `eval` mode or, as the paper's code, in `train` mode (dropout, BatchNorm).")
    precision: str = setting(
        "auto",
        "Precision of the noisy forwards: `float32`, `bfloat16`, or `auto`. `auto` takes bfloat16 for models of over a million "
        "parameters if the hardware has it and a check at the start shows that the loss changes by at most a hundredth.",
    )
    rows_per_forward: int = setting(64, "Noisy rows in one forward pass. More rows are faster and need more memory.")

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"`sigma` must be positive, got {self.sigma}: without noise every distance is 0/0.")
        check_counts(self, "num_perturbations", "rows_per_forward")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}={getattr(self, name)!r}` is not one of {', '.join(map(repr, allowed))}.")
        if self.mode == "train" and self.precision == "bfloat16":
            raise ValueError(
                "`precision='bfloat16'` runs the noisy forwards on a copy in eval mode, and `mode='train'` asks for training "
                "mode. Leave `precision` out."
            )

    @classmethod
    def paper_arguments(cls, task: str = "full_class", network: str = "vit", momentum: float = 1.0) -> dict[str, Any]:
        """Return the authors' settings, `{"method": JiT(...), "arguments": {...}}`; the second are for `UnlearningArguments`.

        Args:
            task: `full_class` (CIFAR-100, PinsFace), `sub_class` (CIFAR-20) or `random` (CIFAR-10).
            network: `vgg11` or `vit`.
            momentum: 1.0 reproduces the authors' code, which never zeroes the gradients; 0.0 is the algorithm as written.

        Raises:
            ValueError: the paper has no such task or network.
        """
        if (task, network) not in PUBLISHED:
            known = ", ".join(f"{t}/{n}" for t, n in PUBLISHED)
            raise ValueError(f"`task={task!r}`, `network={network!r}`: the paper has {known}.")
        sigma, learning_rate, batch = PUBLISHED[task, network]
        return {
            "method": cls(
                sigma=sigma,
                relative=False,
                clamp="batch",
                remembered_only=False,
                reduction="sum",
                mode="train",
                outputs="all",
                precision="float32",
                anchors=False,
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

    def arguments_for(self, update: str | None, kind: str) -> Mapping[str, Any]:
        """Return few large steps of the head or more small ones of all for a class; a small dose to all for single rows."""
        if kind == "samples":
            return ROW_STEPS
        return self.arguments if update in (None, "head") else ALL_STEPS

    def setup(self, run: UnlearningRun) -> None:
        reference = run.reference
        if reference.input_max <= reference.input_min:
            raise ValueError(
                "`forget_dataset`: its inputs are constant, so noise has no room after clamping. Check the image processor."
            )
        self._sigma = self.sigma * (reference.input_std if self.relative else 1.0)
        self._range = None if self.clamp == "batch" else (reference.input_min, reference.input_max)
        self._half: HalfCopy | None = None
        asked, auto = self.precision == "bfloat16", self.precision == "auto"
        if asked or (auto and not in_any_process(not self._half_is_safe(run))):
            self._half = HalfCopy(run.model)

    def _half_is_safe(self, run: UnlearningRun) -> bool:
        """Return True for a large model on hardware with bfloat16, if the loss of a first batch is within 1 % of float32's."""
        model = run.model
        small = sum(p.numel() for p in model.parameters()) < 1_000_000
        if self.mode == "train" or small or not bfloat16_is_fast(model):
            return False
        rows = run.forget_rows.many(range(min(16, len(run.forget_rows))))
        batch = {k: v.to(run.args.device) for k, v in run.processor.collate(rows).items()}
        inputs, seeds = model_inputs(batch), torch.arange(len(rows))
        probe, losses = copy.copy(self), []
        probe.num_perturbations = min(PROBED_COPIES, self.num_perturbations)
        with eval_mode(model), torch.no_grad():
            logits = classify(model, inputs).float()
            for half in (None, HalfCopy(model)):
                probe._half = half
                losses.append(probe.flatness(logits, *probe.perturbed_logits(model, inputs, seeds)).item())
        return abs(losses[1] - losses[0]) <= 0.01 * losses[0]

    def before_step(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        if self.clamp == "batch" and "pixel_values" in batches[0]["forget"]:
            ends = [b["forget"]["pixel_values"].aminmax() for b in batches]
            self._range = range_over_processes(min(e.min.item() for e in ends), max(e.max.item() for e in ends))

    def loss(self, model: nn.Module, batch: Mapping[str, Any], reference: Reference) -> dict[str, Tensor]:
        inputs, seeds = model_inputs(batch["forget"]), batch["seed"]
        with eval_mode(model) if self.mode == "eval" else nullcontext():
            logits = classify(model, inputs).float()
            chosen, clean = inputs, logits
            if self.remembered_only:
                keep = reference.remembered(logits.detach(), batch["index"])
                if not keep.any():
                    return {"flatness": logits.sum() * 0.0}
                if not keep.all():
                    chosen = {k: v[keep] if isinstance(v, Tensor) else v for k, v in inputs.items()}
                    seeds, clean = seeds[keep], logits[keep]
            noisy, distance = self.perturbed_logits(model, chosen, seeds)
        if self.outputs == "all":
            total = self.flatness(clean, noisy, distance)
        else:
            total = self.restricted_flatness(clean, noisy, distance, reference.forgotten_classes)
        if self.reduction == "mean":
            return {"flatness": total / len(logits)}
        return {"flatness": over_share(total, batch.get("share", 1.0))}

    def flatness(self, clean: Tensor, noisy: Tensor, distance: Tensor) -> Tensor:
        """Return (1/N) Σ_j Σ_i ‖f(x_i) − f(x'_ij)‖ / d_ij of logits (B, classes), (N, B, classes) and distances (N, B)."""
        total = clean.new_zeros(())
        for noisy_j, d_j in zip(noisy, distance, strict=True):
            slope = torch.linalg.vector_norm(clean - noisy_j, dim=-1) / d_j.clamp_min(torch.finfo(d_j.dtype).tiny)
            total = total + torch.where(d_j > 0, slope, 0.0).sum()
        return total / self.num_perturbations

    def restricted_flatness(self, clean: Tensor, noisy: Tensor, distance: Tensor, forgotten: tuple[int, ...]) -> Tensor:
        """Return the value of `flatness` with a part of its gradient v at the output (B, classes); the rest of v becomes 0.

        For forgotten classes c the part is |v_ic|, so that their logits fall whatever the noise does. For single rows it is
        v_ic of the predicted class c.
        """
        leaf = clean.detach().requires_grad_()
        value = self.flatness(leaf, noisy, distance)
        (v,) = torch.autograd.grad(value, leaf)
        if forgotten:
            mask = torch.zeros_like(v)
            mask[:, list(forgotten)] = 1.0
            v = v.abs() * mask
        else:
            v = v * F.one_hot(clean.argmax(-1), clean.shape[-1])
        surrogate = (v * clean).sum()
        return value.detach() + surrogate - surrogate.detach()

    @torch.no_grad()
    def perturbed_logits(self, model: nn.Module, inputs: Mapping[str, Any], seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, B, classes) of the noisy copies and their distances (N, B) to the clean inputs after clamping.

        With `relative`, a distance of 1 is the expected length of the noise, σ√d.
        """
        x, mask = continuous_input(model, inputs)
        low, high = self._range or (x.min().item(), x.max().item())
        unit = self._sigma * mask.expand_as(x).flatten(1).sum(-1).sqrt() if self.relative else 1.0
        if self._half is not None:
            self._half.refresh(model)
        # A data-parallel wrapper would need equally many forwards in every process, so the model itself runs.
        runner = (unwrap(model) if in_parallel() else model) if self._half is None else self._half.model
        generators = [torch.Generator(device=x.device).manual_seed(s) for s in seeds.tolist()]
        # In train mode a forward is one copy of the batch, as in the authors' code, because BatchNorm depends on the batch.
        at_once = 1 if self.mode == "train" else max(1, self.rows_per_forward // len(x))
        forwards = -(-self.num_perturbations // at_once)
        logits, distances = [], []
        for turn in range(forwards):
            copies = (self.num_perturbations + turn) // forwards  # forwards of nearly equal size
            shifted = torch.stack([gaussian_like(x, mask, generators) for _ in range(copies)]).mul_(self._sigma).add_(x)
            if "pixel_values" in inputs:
                shifted.clamp_(low, high)
            distances.append(torch.linalg.vector_norm((x - shifted).flatten(2), dim=-1) / unit)
            flat = shifted.flatten(0, 1).to(next(runner.parameters()).dtype)
            logits.append(classify_by_length(runner, repeat_inputs(inputs, copies), flat).float())
        return torch.cat(logits).view(self.num_perturbations, len(x), -1), torch.cat(distances).float()


class HalfCopy:
    """A copy of the model in bfloat16, for forwards that need no gradient; `refresh` copies the present weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(unwrap(model)).requires_grad_(False).to(torch.bfloat16).eval()
        if any(isinstance(m, nn.Conv2d) for m in self.model.modules()):
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        for half, full in zip(self.model.parameters(), unwrap(model).parameters(), strict=True):
            if full.requires_grad:
                half.copy_(full)


def bfloat16_is_fast(model: nn.Module) -> bool:
    """Return True if the device of `model` multiplies bfloat16 natively."""
    if next(model.parameters()).is_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def gaussian_like(x: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise of x's shape, zero on padding; row i is drawn from `generators[i]` alone.

    So a row's noise depends on its own seed, and not on its batch, its padding or the process that holds the row.
    """
    noise = torch.zeros_like(x)
    if mask.ndim == 0:
        for row, g in zip(noise, generators, strict=True):
            row.normal_(generator=g)
        return noise
    for row, real, g in zip(noise, mask[..., 0] > 0, generators, strict=True):
        row[real] = torch.randn((int(real.sum()), x.shape[-1]), generator=g, device=x.device, dtype=x.dtype)
    return noise

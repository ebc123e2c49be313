"""What one model gives for every set of rows: logits and the features in front of its last layer, each from one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...models.forward import unwrap
from ...models.prediction import answers
from ...models.processor import Processor
from ...models.structure import find_head
from .evidence import Estimate

FLOOR = -1e4  # in place of a logit of −∞: probability 0 all the same, and differences stay finite


@dataclass(frozen=True)
class Outputs:
    """Of one model on one set: logits (n, classes), features (n, d) and labels (n,), fp32 and on the CPU."""

    logits: Tensor
    features: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """(n,) boolean."""
        return self.logits.argmax(-1) == self.labels

    @property
    def confidence(self) -> Tensor:
        """(n,) highest probability."""
        return self.logits.double().softmax(-1).amax(-1)

    @property
    def margin(self) -> Tensor:
        """(n,) log-odds of the label in nats: logit minus the log-sum-exp of the others."""
        z = self.logits.double()
        own = z.gather(-1, self.labels[:, None])
        return own[:, 0] - z.scatter(-1, self.labels[:, None], -torch.inf).logsumexp(-1)

    def where(self, rows: Tensor) -> Outputs:
        """Of the rows (n,) that are true."""
        return Outputs(self.logits[rows], self.features[rows], self.labels[rows])


def run_model(
    model: nn.Module,
    sets: Mapping[str, PreparedRows],
    processor: Processor,
    *,
    name: str = "model",
    batch_size: int = 128,
) -> dict[str, Outputs]:
    """One pass of `model`, in eval mode, over each set of labelled rows.

    Raises:
        ValueError: NaN or +∞ among the logits; `name` says of which model.
    """
    out: dict[str, Outputs] = {}
    for key, rows in sets.items():
        parts: list[tuple[Any, ...]] = []  # not the answers themselves, which hold their inputs
        for a in answers(model, rows, processor.collate, batch_size, features=True):
            parts.append((a.logits.float().cpu(), a.features.float().cpu(), a.labels))  # type: ignore[union-attr]
        logits, features, labels = map(torch.cat, zip(*parts, strict=True))
        if torch.isnan(logits).any() or (logits == torch.inf).any():
            raise ValueError(
                f"`{name}` gives NaN or infinite logits on the {key} set: it computes nothing that could be compared. "
                "Check how it was saved and loaded."
            )
        out[key] = Outputs(logits.clamp_min(FLOOR), features, labels)
    return out


def quantised(model: nn.Module, precision: str) -> nn.Module:
    """A copy with weights rounded to `int8` (symmetric, one scale per output channel) or `bf16`, computing in its own dtype.

    What was unlearned by changes smaller than the rounding comes back (Zhang et al., arXiv 2410.16454).

    Raises:
        ValueError: another precision.
    """
    if precision not in ("int8", "bf16"):
        raise ValueError(f"`precision={precision!r}` is unknown. Known: int8, bf16.")
    model = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            if precision == "bf16":
                weight.copy_(weight.to(torch.bfloat16))
            elif weight.ndim >= 2:
                scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
                scale = scale.view(-1, *[1] * (weight.ndim - 1))
                weight.copy_((weight / scale).round() * scale)
    return model


def adapter_layers(model: nn.Module) -> list[Any]:
    """The layers of PEFT adapters inside `model`; empty where it has none."""
    return [m for m in model.modules() if isinstance(getattr(m, "_disable_adapters", None), bool)]


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model below its adapters, inside."""
    layers = adapter_layers(model)
    needed = {n: p.requires_grad for n, p in model.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for n, p in model.named_parameters():  # switching on trains parameters that were frozen
            p.requires_grad_(needed[n])


def unchanged_share(model: nn.Module, original: nn.Module) -> float:
    """The share of the original's parameters outside its head that `model` has bit-equal, in [0, 1]."""
    head = find_head(original) + "."
    kept = {_plain(n): p for n, p in unwrap(model).named_parameters()}
    same = total = 0
    for full, p in unwrap(original).named_parameters():
        name = _plain(full)
        if not name.startswith(head):
            total += p.numel()
            other = next((q for n, q in kept.items() if n == name or n.endswith("." + name)), None)
            if other is not None and other.shape == p.shape:
                same += int((other.detach().cpu() == p.detach().cpu()).sum())
    return same / max(total, 1)


def _plain(name: str) -> str:
    """A parameter's name without what adapters put around it."""
    for part in ("base_model.model.", "base_layer.", "original_module.", "modules_to_save.default."):
        name = name.replace(part, "")
    return name


@dataclass(eq=False)
class Measured:
    """What one model gave: `outputs` by set, and what was found behind them; `probes` are filled when first asked for."""

    name: str
    outputs: dict[str, Outputs]
    rounded: dict[str, Tensor]
    curves: list[list[tuple[int, float]]]
    similarity: float
    unchanged: float
    switched_off: Outputs | None = None
    weights: str = ""
    probes: dict[str, Estimate] = field(default_factory=dict)

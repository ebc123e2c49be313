"""Run one model over sets of rows: logits and features, rounded weights, adapters switched off."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...models.prediction import answers, block_means, block_outputs
from ...models.processor import Processor
from ...models.structure import last_layers
from .evidence import Estimate

DEPTHS = (1 / 2, 2 / 3, 5 / 6, 1.0)  # share of the blocks behind which features are taken
STEADY_ROWS, STEADY_BATCH = 96, 7
STEADY = 0.1  # nats of log-odds: more than other padding and other orders of summation move
HIDDEN_BY = 0.5  # nats by which a hidden class lies below the others
FLOOR = -1e4  # replaces a logit of −∞: the probability is 0 too, and differences stay finite


@dataclass(frozen=True)
class Outputs:
    """One model on one set, in fp32 on the CPU.

    Attributes:
        logits: (n, classes).
        features: (n, d), what the last layer reads.
        labels: (n,).
        blocks: (n, d) for each of `DEPTHS`, the mean over tokens or places of what the block there gives; empty if the model
            has no blocks.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor
    blocks: tuple[Tensor, ...] = ()

    @property
    def right(self) -> Tensor:
        """(n,) boolean, true if the answer is the label."""
        return self.logits.argmax(-1) == self.labels

    @property
    def confidence(self) -> Tensor:
        """(n,) highest probability, in [0, 1]."""
        return self.logits.double().softmax(-1).amax(-1)

    @property
    def margin(self) -> Tensor:
        """(n,) log-odds of the label in nats: logit minus the log-sum-exp of the others."""
        z = self.logits.double()
        own = z.gather(-1, self.labels[:, None])
        return own[:, 0] - z.scatter(-1, self.labels[:, None], -torch.inf).logsumexp(-1)


def run_model(
    model: nn.Module, sets: Mapping[str, Iterable[Any]], processor: Processor, *, name: str, batch_size: int = 128
) -> dict[str, Outputs]:
    """Run `model` once, in eval mode, over each set of labeled rows.

    Args:
        name: what errors call the model.

    Raises:
        ValueError: there is NaN or +∞ among the logits.
    """
    out: dict[str, Outputs] = {}
    for key, rows in sets.items():
        parts: list[tuple[Any, ...]] = []  # the answers themselves would keep their inputs in memory
        with block_outputs(model, DEPTHS) as blocks:
            for a in answers(model, rows, processor.collate, batch_size, features=True):
                inside = (means.float().cpu() for means in block_means(blocks, a))
                parts.append((a.logits.float().cpu(), a.features.float().cpu(), a.labels, *inside))  # type: ignore[union-attr]
        logits, features, labels, *inner = map(torch.cat, zip(*parts, strict=True))
        if torch.isnan(logits).any() or (logits == torch.inf).any():
            raise ValueError(
                f"`{name}` gives NaN or infinite logits on the {key} set, so there is nothing to compare. Check how the "
                "model was saved and loaded."
            )
        out[key] = Outputs(logits.clamp_min(FLOOR), features, labels, tuple(inner))
    return out


def quantized(model: nn.Module, precision: Literal["int8", "bf16"]) -> nn.Module:
    """Return a copy with weights rounded to `int8` (symmetric, one scale per output channel) or `bf16`.

    The copy computes in the dtype of `model`. Rounding undoes an unlearning that changed the weights by less than the
    rounding does (Zhang et al., arXiv 2410.16454).
    """
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


@torch.no_grad()
def hide_classes(model: nn.Module, classes: Sequence[int], outputs: Outputs) -> nn.Module:
    """Return a copy that knows `classes` as well as `model` does and answers no row of `outputs` with them.

    Their biases are lowered by as much as that takes. Without biases their logits become the mean of the others.
    """
    model, gone = copy.deepcopy(model), list(classes)
    others = [c for c in range(outputs.logits.shape[1]) if c not in classes]
    ahead = float((outputs.logits[:, gone].amax(1) - outputs.logits[:, others].amax(1)).amax())
    for layer in last_layers(model):
        if layer.bias is not None:
            layer.bias[gone] -= max(ahead, 0.0) + HIDDEN_BY
        else:
            layer.weight[gone] = layer.weight[others].mean(0)
    return model


def adapter_layers(model: nn.Module) -> list[Any]:
    """Return the layers of PEFT adapters inside `model`; empty if there are none."""
    return [m for m in model.modules() if isinstance(getattr(m, "_disable_adapters", None), bool)]


def unsteady_share(model: nn.Module, rows: PreparedRows, processor: Processor, outputs: Outputs) -> float:
    """Return the share of rows that `model` answers otherwise than in `outputs` if they come in another order, in small batches.

    It is 0 for every classifier that looks at one row at a time. At most `STEADY_ROWS` rows are read, from the end.
    """
    last = range(len(rows) - 1, max(len(rows) - 1 - STEADY_ROWS, -1), -1)
    again = run_model(model, {"again": rows.many(last)}, processor, name="model", batch_size=STEADY_BATCH)["again"]
    places = torch.tensor(last)
    moved = (again.margin - outputs.margin[places]).abs() > STEADY
    return float(moved.double().mean())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapters of `model` off inside the context, and on again afterwards."""
    layers = adapter_layers(model)
    needed = {n: p.requires_grad for n, p in model.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for n, p in model.named_parameters():  # PEFT makes them trainable when it switches adapters on
            p.requires_grad_(needed[n])


@dataclass(eq=False)
class Measured:
    """What `Auditor.measure` found of one model.

    Attributes:
        name: what errors and `Audit.curves` call the model.
        outputs: set -> outputs.
        rounded: `int8` and `bf16` -> (n,) boolean, true if the model with rounded weights answers a forget row right.
        curves: one (steps, accuracy) curve for each draw of rows that the forgotten classes were taught again from.
        hidden_curves: of the original, the curves of a copy that only does not answer the forgotten classes; else empty.
        unchanged: share of the weights outside the head that equal the original's bit for bit, in [0, 1].
        without_adapters: outputs on the forget set with the adapters switched off; None if the model has none.
        weights: digest of the weights.
        sample: some of its weights (m,), the same of every model; None if it is another network than the original.
        unsteady: share of rows that it answers otherwise in another order and in smaller batches, in [0, 1].
        network: in words how its network differs from the original's; "" if it does not.
        probes: figures of its features, computed when they are first needed.
    """

    name: str
    outputs: dict[str, Outputs]
    rounded: dict[str, Tensor]
    curves: list[list[tuple[int, float]]]
    unchanged: float
    without_adapters: Outputs | None = None
    weights: str = ""
    sample: Tensor | None = None
    unsteady: float = 0.0
    network: str = ""
    hidden_curves: list[list[tuple[int, float]]] = field(default_factory=list)
    probes: dict[str, Estimate] = field(default_factory=dict)

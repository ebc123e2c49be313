"""Steps of a fixed length relative to each tensor, so that a method works without tuning its learning rate."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.sharding import local, norms


@torch.no_grad()
def relative_step(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], length: float, floor: float = 0.01
) -> None:
    """Take the step θ ← θ − ρ max(‖θ‖, κ√n) g/‖g‖ for each tensor θ of n elements; ρ is `length`, κ is `floor`."""
    if not parameters:
        return
    lengths, sizes = norms(list(parameters)), norms(list(gradients))
    # A gradient that is zero in theory, as for a key bias under softmax, is rounding noise and must not become a full step.
    noise = 1e-6 * torch.stack([s.float() for s in sizes]).max()
    for p, g, norm, size in zip(parameters, gradients, lengths, sizes, strict=True):
        radius = length * norm.clamp_min(floor * math.sqrt(p.numel()))
        local(p).sub_(local(g) * torch.where(size > noise, radius / size, 0.0).to(g.dtype))


class TrustRegion(torch.optim.Optimizer):
    """Gradient descent with a step of fixed relative length, per tensor: θ ← θ − ρ max(‖θ‖, κ√n) g/‖g‖.

    This minimizes the linearized loss in a ball of radius ρ‖θ‖. So no scale of the loss, of σ or of a layer makes a step too
    large or too small.

    Args:
        lr: length ρ of a step, relative to the tensor's norm.
        floor: κ, the root mean square that a tensor counts as having at least, so that tensors of zeros may move.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.002, floor: float = 0.01) -> None:
        if not 0 < lr < 1:
            raise ValueError(f"`trust_region` (the optimizer's `lr`) must lie in (0, 1), got {lr}.")
        super().__init__(params, {"lr": lr, "floor": floor})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            relative_step(moved, [p.grad for p in moved], group["lr"], group["floor"])
        return loss

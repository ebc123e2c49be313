"""Copies and digests of a model's weights."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .forward import unwrap
from .sharding import as_held, whole


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A digest of every parameter and buffer, to tell afterwards what changed; tied ones under their first name."""

    def digest(tensor: Tensor) -> str:
        raw = whole(tensor).contiguous().cpu().view(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
        return hashlib.blake2b(raw.numpy().tobytes(), digest_size=16).hexdigest()

    model = unwrap(model)
    own = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    return {name: digest(tensor) for name, tensor in model.state_dict().items() if name in own}


def joint_digest(prints: dict[str, str]) -> str:
    """One digest of all `fingerprints` of a model."""
    return hashlib.blake2b("".join(f"{n}{d}" for n, d in sorted(prints.items())).encode(), digest_size=16).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """One digest of the values of all parameters and buffers, whatever they are called: the same for a saved copy."""
    return hashlib.blake2b("".join(sorted(fingerprints(model).values())).encode(), digest_size=16).hexdigest()


class Snapshot:
    """A copy, on the CPU, of some of a model's tensors: the original to compare with, or a state to go back to.

    Of a sharded model the tensors are whole, so all processes make and restore it together.

    Saved buffers (BatchNorm statistics) are always in it: parameters without them would be another model.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        state = unwrap(model).state_dict()
        buffers = (n for n, _ in unwrap(model).named_buffers() if n in state)
        self.tensors = {n: whole(state[n]).to("cpu", copy=True).contiguous() for n in dict.fromkeys([*names, *buffers])}

    def mixed(self, other: Snapshot, share: float) -> Snapshot:
        """(1 − share) of this one and `share` of `other`; counters are those of `other`."""
        pairs = {n: (a, other.tensors[n]) for n, a in self.tensors.items()}
        return self.holding({n: torch.lerp(a, b, share) if a.is_floating_point() else b for n, (a, b) in pairs.items()})

    def holding(self, tensors: dict[str, Tensor]) -> Snapshot:
        """A snapshot of these tensors."""
        out = copy.copy(self)
        out.tensors = tensors
        return out

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Write the copy back into `model`."""
        state = unwrap(model).state_dict()
        for name, saved in self.tensors.items():
            state[name].copy_(as_held(saved, state[name]))

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
    """Return a digest of every parameter and buffer by name, which shows what changed. Tied ones have the first name."""
    model = unwrap(model)
    own = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    return {n: _digest(raw_bytes(t)) for n, t in model.state_dict().items() if n in own}


def joint_digest(prints: dict[str, str]) -> str:
    """Return one digest of all `fingerprints` of a model."""
    return _digest("".join(f"{n}{d}" for n, d in sorted(prints.items())).encode())


def weights_digest(model: nn.Module) -> str:
    """Return one digest of the values of all parameters and buffers without their names: the same for a saved copy."""
    return _digest("".join(sorted(fingerprints(model).values())).encode())


def raw_bytes(tensor: Tensor) -> bytes:
    """Return the values of `tensor` as they lie in memory."""
    flat = whole(tensor).cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Snapshot:
    """A copy, on the CPU, of some tensors of a model: the original to compare with, or a state to go back to.

    It holds the parameters `names` and all saved buffers (BatchNorm statistics), without which they would be another
    model. A sharded model is copied whole, so all processes must make and restore the copy together.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        state = unwrap(model).state_dict()
        buffers = (n for n, _ in unwrap(model).named_buffers() if n in state)
        self.tensors = {n: whole(state[n]).to("cpu", copy=True).contiguous() for n in dict.fromkeys([*names, *buffers])}

    def mixed(self, other: Snapshot, share: float) -> Snapshot:
        """Return (1 − share) of this snapshot plus `share` of `other`; counters are those of `other`."""
        pairs = {n: (a, other.tensors[n]) for n, a in self.tensors.items()}
        return self.holding({n: torch.lerp(a, b, share) if a.is_floating_point() else b for n, (a, b) in pairs.items()})

    def holding(self, tensors: dict[str, Tensor]) -> Snapshot:
        """Return a snapshot that holds `tensors`."""
        out = copy.copy(self)
        out.tensors = tensors
        return out

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Write the copy back into `model`."""
        state = unwrap(model).state_dict()
        for name, saved in self.tensors.items():
            state[name].copy_(as_held(saved, state[name]))

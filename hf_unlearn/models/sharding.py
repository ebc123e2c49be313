"""Parameters that several processes hold in parts (FSDP2): reading them whole, and writing whole ones back.

Reading is a collective: all processes must do it together. A tensor that is not sharded passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from .forward import unwrap

if TYPE_CHECKING:
    pass


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of `model` are held in parts."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All parts of `tensor`, without gradient."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def local(tensor: Tensor) -> Tensor:
    """This process's part of `tensor`, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The `state_dict` of `model`, whole and on the CPU."""
    return {n: whole(t).cpu() for n, t in unwrap(model).state_dict().items()}


def as_held(values: Tensor, like: Tensor) -> Tensor:
    """Whole `values`, the same in all processes, cut into parts and placed as `like` is."""
    values = values.to(like.device)
    return distribute_tensor(values, like.device_mesh, like.placements) if isinstance(like, DTensor) else values


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """Euclidean norm () of each tensor, over all its parts."""
    return [whole(n) for n in torch._foreach_norm(tensors)]

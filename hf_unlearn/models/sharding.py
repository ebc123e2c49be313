"""Parameters that several processes hold in parts (FSDP2): reading whole values, and writing whole values back.

Reading is a collective operation: all processes must do it together. A tensor that is not sharded passes through.
"""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from .forward import unwrap


def is_sharded(model: nn.Module) -> bool:
    """Check whether parameters of `model` are held in parts."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def reshard(model: nn.Module) -> None:
    """Let go of the whole parameters that a forward pass without a backward pass leaves, so that `model` has its parts again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return all parts of `tensor` as one tensor without gradient."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of `tensor`, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the `state_dict` of `model` with whole tensors on the CPU."""
    return {n: whole(t).cpu() for n, t in unwrap(model).state_dict().items()}


def as_held(values: Tensor, like: Tensor) -> Tensor:
    """Return whole `values`, which are the same in all processes, cut into parts and placed as `like` is."""
    values = values.to(like.device)
    return distribute_tensor(values, like.device_mesh, like.placements) if isinstance(like, DTensor) else values


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return the Euclidean norm () of each tensor over all its parts."""
    return [whole(n) for n in torch._foreach_norm(tensors)]

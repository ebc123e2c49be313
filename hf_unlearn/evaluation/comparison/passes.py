"""Count the rows that go through the body of a model, which is what a method costs on any machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import PreTrainedModel

READING = 1 / 3  # of a pass of a training: a forward pass without the backward pass


@dataclass
class Passes:
    """Rows that went through the body of any model.

    Attributes:
        trained: rows whose gradient goes through the body.
        read: rows without one.
    """

    trained: int = 0
    read: int = 0

    @property
    def total(self) -> float:
        """Passes of a training that cost as much. A row that is only read counts as a third of a pass."""
        return self.trained + READING * self.read


@contextmanager
def counted_passes() -> Iterator[Passes]:
    """Give counts that grow inside the context. A body is what transformers calls the base model of a classifier."""
    counts, open_bodies = Passes(), []

    def is_body(module: Any) -> bool:
        return isinstance(module, PreTrainedModel) and module.base_model is module

    def begin(module: Any, _inputs: Any) -> None:
        if is_body(module):
            open_bodies.append(module)

    def count(module: Any, _inputs: Any, output: Any) -> None:
        if not is_body(module):
            return
        open_bodies.pop()
        if open_bodies:  # the encoder of a body can be one itself, and its rows are the same
            return
        if output[0].requires_grad:
            counts.trained += len(output[0])
        else:
            counts.read += len(output[0])

    hooks = register_module_forward_pre_hook(begin), register_module_forward_hook(count)
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()

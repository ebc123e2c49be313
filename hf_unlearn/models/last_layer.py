"""Passes over the same rows again and again: while only the last layer moves, what it reads stays, and is kept."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.distributed import in_parallel
from ..utils.large_tensors import Collector
from .forward import unwrap
from .prediction import answers, predict
from .processor import Processor
from .structure import last_layers

MOST_BYTES = 2**28  # of the features that are kept of one set of rows

Versions = list[tuple[int, int]]


def versions(model: nn.Module, without: nn.Module | None = None) -> Versions:
    """Return numbers that change when a tensor of `model` is written or replaced, except one of the layer `without` alone."""
    modules = [m for m in unwrap(model).modules() if m is not without]
    held = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    return [(t.data_ptr(), t._version) for t in held]


@dataclass
class _Features:
    """What the last layer read of a set of rows, in batches, and the versions of the tensors that made it."""

    made_by: Versions
    batches: list[Tensor]
    labels: Tensor | None


class LastLayerPasses:
    """Passes of a model over sets of rows. Each set has a name, under which it must have the same rows each time."""

    def __init__(self) -> None:
        self._kept: dict[str, _Features] = {}

    def clear(self) -> None:
        """Drop all features."""
        self._kept.clear()

    def predict(
        self,
        name: str,
        model: nn.Module,
        rows: Any,
        processor: Processor,
        batch_size: int = 128,
        folder: str | Path | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `models.prediction.predict` returns for the set `name`, whose `rows` have a length."""
        layer = _moving_layer(model)
        if layer is None:
            return predict(model, rows, processor, batch_size, folder=folder)
        known, logits = self._kept.pop(name, None), Collector(len(rows), folder)
        if known is None or known.made_by != versions(model, layer):
            known = _read(model, layer, rows, processor, batch_size, logits)
        else:
            with torch.no_grad():
                for features in known.batches:
                    logits.add(layer(features))
        if known.batches:
            self._kept[name] = known
        return logits.table(), known.labels


def _moving_layer(model: nn.Module) -> nn.Module | None:
    """Return the last layer if nothing but it can move, and a single process reads all rows."""
    parameters = ((m, p) for m in unwrap(model).modules() for p in m._parameters.values() if p is not None)
    learns = list(dict.fromkeys(m for m, p in parameters if p.requires_grad))
    if len(learns) == 1 and not in_parallel():
        with suppress(ValueError):  # there is no such layer
            return learns[0] if learns == last_layers(model) else None
    return None


def _read(
    model: nn.Module, layer: nn.Module, rows: Any, processor: Processor, batch_size: int, logits: Collector
) -> _Features:
    """Read all rows and add their logits. No features are kept if there are too many, or if they do not give these logits."""
    batches: list[Tensor] = []
    labels, size, exact = [], 0, True
    for answer in answers(model, rows, processor.collate, batch_size, features=True):
        logits.add(answer.logits)
        labels.append(answer.labels)
        features: Any = answer.features
        size += features.nbytes
        exact = exact and size <= MOST_BYTES and _gives(layer, features, answer.logits)
        batches = [*batches, features] if exact else []
    known = None if any(x is None for x in labels) else torch.cat(labels)  # type: ignore[arg-type]
    return _Features(versions(model, layer), batches, known)


@torch.no_grad()
def _gives(layer: nn.Module, features: Tensor, logits: Tensor) -> bool:
    """Return True if `layer` makes exactly these logits of the features. Some models change its outputs afterwards."""
    weight: Any = layer.weight
    return features.dtype == weight.dtype and torch.equal(layer(features), logits)

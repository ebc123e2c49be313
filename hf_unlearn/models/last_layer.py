"""Passes over the same rows again and again: while only the last layer moves, what it reads stays, and is kept."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.distributed import in_parallel
from ..utils.large_tensors import Collector
from .forward import unwrap
from .prediction import Answers, all_labels, answers, predict, prepared_texts
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
    """What the last layer read of a set of rows, in batches with the places of their rows, and the versions of what made it."""

    made_by: Versions
    batches: list[tuple[Tensor, Tensor]]
    labels: Tensor | None


class LastLayerPasses:
    """Passes of a model over sets of rows. Each set has a name, under which it must have the same rows each time."""

    def __init__(self) -> None:
        self._kept: dict[str, _Features] = {}
        self._refused: set[str] = set()  # sets whose features could not be kept

    def clear(self) -> None:
        """Drop all features."""
        self._kept.clear()

    def may_keep(self, name: str, model: nn.Module, rows: Any) -> bool:
        """Return True if later passes over the set `name` cost little, because the features of its `rows` are kept or can be."""
        layer = _moving_layer(model)
        return layer is not None and name not in self._refused and 4 * len(rows) * layer.in_features <= MOST_BYTES

    def answers(
        self, name: str, model: nn.Module, rows: Any, processor: Processor, batch_size: int = 128
    ) -> Iterator[Answers]:
        """Yield `models.prediction.answers` for the set `name`, in any order of its rows.

        After the last one the features are kept, unless there are too many, or they do not give the logits.
        """
        layer, texts = _moving_layer(model), prepared_texts(rows, processor)
        batches: list[tuple[Tensor, Tensor]] = []
        labels, size, exact = [], 0, layer is not None
        read = answers(model, texts, processor.collate, batch_size, features=exact, any_order=True, total=len(rows))
        for answer in read:
            yield answer
            if layer is None:
                continue
            features: Any = answer.features
            labels.append(answer.labels)
            size += features.nbytes
            exact = exact and size <= MOST_BYTES and _gives(layer, features, answer.logits)
            batches = [*batches, (features, answer.places)] if exact else []
        if batches and layer is not None:
            known = all_labels(labels, [places for _, places in batches])
            self._kept[name] = _Features(versions(model, layer), batches, known)
        elif layer is not None:
            self._refused.add(name)

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
            labels, places = [], []
            for answer in self.answers(name, model, rows, processor, batch_size):
                logits.add(answer.logits, answer.places)
                labels.append(answer.labels)
                places.append(answer.places)
            return logits.table(), all_labels(labels, places)
        with torch.no_grad():
            for features, at in known.batches:
                logits.add(layer(features), at)
        self._kept[name] = known
        return logits.table(), known.labels


def _moving_layer(model: nn.Module) -> nn.Linear | None:
    """Return the last layer if nothing but it can move, and a single process reads all rows."""
    parameters = ((m, p) for m in unwrap(model).modules() for p in m._parameters.values() if p is not None)
    learns = list(dict.fromkeys(m for m, p in parameters if p.requires_grad))
    if len(learns) == 1 and not in_parallel():
        with suppress(ValueError):  # there is no such layer
            layers = last_layers(model)
            return layers[0] if learns == layers else None
    return None


@torch.no_grad()
def _gives(layer: nn.Module, features: Tensor, logits: Tensor) -> bool:
    """Return True if `layer` makes exactly these logits of the features. Some models change its outputs afterwards."""
    weight: Any = layer.weight
    return features.dtype == weight.dtype and torch.equal(layer(features), logits)

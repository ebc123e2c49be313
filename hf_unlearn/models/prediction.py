"""One pass of a model over rows, in eval mode and without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.large_tensors import Collector
from .forward import classify, eval_mode, model_inputs
from .processor import Processor
from .structure import last_layer_inputs


@dataclass
class Answers:
    """What a model says to a batch of rows.

    Attributes:
        rows: the rows, as they were given.
        inputs: what the model read, on its device.
        logits: (B, classes), on the model's device.
        labels: (B,), on the CPU; None where a row has none.
        features: (B, d), what the last layer read for these logits; None unless asked for.
    """

    rows: list[Any]
    inputs: dict[str, Any]
    logits: Tensor
    labels: Tensor | None
    features: Tensor | None = None


def answers(
    model: nn.Module,
    rows: Iterable[Any],
    collate: Callable[[list[Any]], Mapping[str, Any]],
    batch_size: int = 128,
    features: bool = False,
) -> Iterator[Answers]:
    """`Answers` to batches of `rows`, in order. The model is in its former mode whenever the caller has the turn.

    Args:
        rows: raw or prepared; a list, a data set or a stream.
        collate: rows -> batch, as `Processor.collate`.
        features: also give what the last layer reads.
    """
    device, iterator = next(model.parameters()).device, iter(rows)
    while part := list(islice(iterator, batch_size)):
        batch = {k: v.to(device) for k, v in collate(part).items()}
        inputs = model_inputs(batch)
        with torch.no_grad(), eval_mode(model):
            if features:
                with last_layer_inputs(model) as seen:
                    logits = classify(model, inputs)
                read = _behind(*seen[-1], logits)
            else:
                logits, read = classify(model, inputs), None
        yield Answers(part, inputs, logits, batch["labels"].cpu() if "labels" in batch else None, read)


def _behind(features: Tensor, outputs: Tensor, logits: Tensor) -> Tensor:
    """Of what the last layer read (B, ..., d) and gave (B, ..., classes), the features (B, d) behind the logits."""
    if features.ndim == 2:
        return features
    # Decoders score every token and keep one: the token whose scores became the logits.
    features, outputs = features.flatten(1, -2), outputs.flatten(1, -2)
    kept = (outputs - logits[:, None]).abs().amax(-1).argmin(1)
    return features[torch.arange(len(kept), device=kept.device), kept]


def predict(
    model: nn.Module,
    dataset: Any,
    processor: Processor,
    batch_size: int = 128,
    limit: int | None = None,
    folder: str | Path | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits (n, classes) in fp32 and labels (n,), on the CPU and in the order of the rows; labels None where a row has none.

    Args:
        dataset: rows, raw or prepared; a data set, a list or a stream.
        limit: most rows to read.
        folder: where very large results lie (`new_table`).

    Raises:
        ValueError: there are no rows.
    """
    size = min(len(dataset), len(dataset) if limit is None else limit) if hasattr(dataset, "__len__") else None
    logits, labels = Collector(size, folder), []
    for answer in answers(model, islice(dataset, limit), processor.collate, batch_size):
        logits.add(answer.logits)
        labels.append(answer.labels)
    if not labels:
        raise ValueError("`dataset` is empty: there is nothing to predict.")
    return logits.table(), None if any(x is None for x in labels) else torch.cat(labels)  # type: ignore[arg-type]

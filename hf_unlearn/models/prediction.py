"""One pass of a model over the rows of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.large_tensors import Collector
from .forward import classify, eval_mode, model_inputs
from .processor import Processor


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Any,
    processor: Processor,
    batch_size: int = 128,
    limit: int | None = None,
    folder: str | Path | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits (n, classes) in fp32 and labels (n,), or None where a row has none; eval mode, in order, on the CPU.

    `limit` bounds the rows that are read from a stream or a large set; very large results lie in `folder` (`new_table`).
    """
    device = next(model.parameters()).device
    rows: list[Any] = []
    size = min(len(dataset), len(dataset) if limit is None else limit) if hasattr(dataset, "__len__") else None
    logits, labels = Collector(size, folder), []

    def flush() -> None:
        batch = {k: v.to(device) for k, v in processor.collate(rows).items()}
        labels.append(batch["labels"].cpu() if "labels" in batch else None)
        logits.add(classify(model, model_inputs(batch)))
        rows.clear()

    with eval_mode(model):
        for number, row in enumerate(dataset):
            if limit is not None and number >= limit:
                break
            rows.append(row)
            if len(rows) == batch_size:
                flush()
        if rows:
            flush()
    if not labels:
        raise ValueError("`dataset` is empty: there is nothing to predict.")
    return logits.table(), None if any(x is None for x in labels) else torch.cat(labels)  # type: ignore[arg-type]

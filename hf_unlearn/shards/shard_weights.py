"""The weight of each shard in the answer, fitted on rows that no shard was trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.pairs import PreparedRows
from ..models.forward import eval_mode, model_inputs, on_device
from ..models.pretrained import load_processing_class
from ..models.processor import Processor
from ..models.sharded_classifier import SHARD, Sharding, build

STEPS = 200  # of L-BFGS, which ends earlier
BATCH = 32


def fit_weights(sharding: Sharding, folder: Path, held_out: Any | None) -> Sharding:
    """Return `sharding` with the weights of its shards: equal ones without `held_out`, else those with the least loss there.

    They are fitted anew for each version, because weights that were fitted with a shard tell of its rows.

    Raises:
        ValueError: the weights of the version before were fitted, and `held_out` is missing.
    """
    if held_out is None:
        if sharding.fitted:
            raise ValueError(
                "The weights of the shards were fitted on held-out rows, and must be again without the deleted ones. Give these rows as "
                "`held_out` (`--held_out`)."
            )
        return sharding
    model = build(sharding, [folder / SHARD.format(i) for i in sharding.present], folder)
    processor = Processor(model, load_processing_class(str(folder)), **sharding.columns)
    rows = PreparedRows(processor.align(held_out, "held_out", quiet=True), processor, "held_out")
    logits, labels = [], []
    with torch.no_grad(), eval_mode(model):
        for start in range(0, len(rows), BATCH):
            batch = on_device(model, processor.collate(rows.many(range(start, min(start + BATCH, len(rows))))))
            if "labels" not in batch:
                raise ValueError("`held_out` has rows without a label, and weights are fitted on labels.")
            logits.append(model.shard_logits(**model_inputs(batch)))
            labels.append(batch["labels"])
    found = least_loss_weights(torch.cat(logits, 1), torch.cat(labels))
    weights = dict(zip(sharding.present, found.tolist(), strict=True))
    return replace(sharding, weights=[weights.get(i, 0.0) for i in range(len(sharding.shards))], fitted=True)


def least_loss_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weights (shards,), positive and of sum 1, with the least cross-entropy of the mean logits.

    Args:
        logits: (shards, rows, classes).
        labels: (rows,).
    """
    logits, free = logits.double(), torch.zeros(len(logits), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(torch.einsum("s,src->rc", free.softmax(0), logits), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return free.detach().softmax(0)

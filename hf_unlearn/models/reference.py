"""The original model as a reference: its outputs on the forget set, and on any input later."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pairs import PreparedRows
from ..data.sampling import DrawnRows
from ..utils.distributed import joined_outputs, own_part, range_over_processes, sums_over_processes
from ..utils.large_tensors import Collector, chunks
from .adapters import Patch
from .forward import classify, continuous_input, eval_mode, unwrap
from .last_layer import LastLayerPasses
from .prediction import all_labels
from .processor import Processor

# A run on single samples goes back a step once less than this share of them is predicted as by the original.
SAMPLES_FLOOR = 0.97


@dataclass
class Reference:
    """The outputs of the original on the forget set, and the scale of the inputs that it read."""

    logits: Tensor  # (n, classes), fp32, on the CPU, in the order of the forget set
    labels: Tensor | None  # (n,), or None where the forget set has no labels
    forgotten_classes: tuple[
        int, ...
    ] = ()  # those that are forgotten as a whole; none for a request that names samples
    input_min: float = 0.0  # of the continuous input (pixels or embeddings) over the forget set
    input_max: float = 0.0
    input_std: float = 0.0

    @cached_property
    def predictions(self) -> Tensor:
        """The original's predictions, (n,) class ids."""
        return self.logits.argmax(-1)

    @property
    def kept_classes(self) -> list[int]:
        """The classes of the head that are not forgotten as a whole."""
        return [c for c in range(self.logits.shape[-1]) if c not in self.forgotten_classes]

    def remembered(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return (B,) booleans: whether `logits` still classify the forget samples `index` as the original does.

        With forgotten classes, any sample that is put into one of them is remembered.
        """
        predicted = logits.argmax(-1)
        if self.forgotten_classes:
            return torch.isin(predicted, torch.tensor(self.forgotten_classes, device=predicted.device))
        return predicted == self.predictions[index.cpu()].to(predicted.device)

    def struck_out(self, logits: Tensor) -> Tensor:
        """Return `logits` with the forgotten classes at −∞: softmax is then the original's belief without these classes."""
        classes = torch.tensor(self.forgotten_classes, device=logits.device, dtype=torch.long)
        return logits.index_fill(-1, classes, -torch.inf)


class FrozenOriginal:
    """The model as it was before the run, for its outputs on any input, in evaluation mode and without gradients.

    It is a copy of `model` as it is now; under a patch, it is the model itself with the patch off.
    """

    def __init__(self, model: nn.Module, patch: Patch | None = None) -> None:
        self.patch = patch
        self.model = model if patch is not None else copy.deepcopy(unwrap(model)).requires_grad_(False).eval()

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return logits (B, classes) in fp32."""
        if self.patch is None:
            return classify(self.model, inputs).float()
        with self.patch.off() as model, eval_mode(model):
            return classify(model, inputs).float()


@torch.no_grad()
def build_reference(
    model: nn.Module,
    forget: PreparedRows,
    processor: Processor,
    batch_size: int,
    folder: str | None = None,
    passes: LastLayerPasses | None = None,
) -> Reference:
    """Pass the forget rows through `model` once, in evaluation mode. Several processes share the rows.

    Very large outputs lie in `folder` (`new_table`). The pass counts as one over the set `forget` of `passes`.
    """
    labels: list[Tensor | None] = []
    places: list[Tensor] = []
    low, high, total, squares, count = float("inf"), -float("inf"), 0.0, 0.0, 0.0
    own = own_part(len(forget))
    logits = Collector(len(own), folder)
    rows = DrawnRows(forget, np.asarray(own))
    for answer in (passes or LastLayerPasses()).answers("forget", model, rows, processor, batch_size):
        logits.add(answer.logits, answer.places)
        labels.append(answer.labels)
        places.append(answer.places)
        x, mask = continuous_input(model, answer.inputs)
        values = x.flatten() if mask.ndim == 0 else x[mask[..., 0] > 0].flatten()
        low, high = min(low, values.min().item()), max(high, values.max().item())
        total += values.sum(dtype=torch.float64).item()
        squares += values.square().sum(dtype=torch.float64).item()
        count += values.numel()
    low, high = range_over_processes(low, high)
    total, squares, count = sums_over_processes([total, squares, count])
    none = torch.zeros(0, dtype=torch.long)  # a process without rows has no other part
    known = all_labels([none, *labels], [none, *places])
    out, known = joined_outputs(logits.table(processor.config.num_labels), known, len(forget), folder)
    if not all(torch.isfinite(part).all() for (part,) in chunks(out)):
        raise ValueError("`model` gives NaN or infinite logits on the forget set before anything was changed.")
    variance = squares / count - (total / count) ** 2
    return Reference(out, known, (), low, high, max(variance, 0.0) ** 0.5)


def forgotten_classes(reference: Reference) -> tuple[int, ...]:
    """Return the classes of a forget set of whole classes: its labels, or what the original predicts for 5 % or more."""
    if reference.labels is not None:
        return tuple(reference.labels.unique().tolist())
    classes, counts = reference.predictions.unique(return_counts=True)
    return tuple(classes[counts >= 0.05 * counts.sum()].tolist())

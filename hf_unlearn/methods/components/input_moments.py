"""Which directions forget rows have more of than retain rows, among the inputs of a linear layer."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...data.sampling import DrawnRows, drawn_rows
from ...models.forward import unwrap
from ...models.prediction import answers
from ...utils.distributed import own_part, sum_over_processes, together
from ..protocols import UnlearningRun

ROWS = 256  # most of each set that are read: more of them gave no better start
RIDGE = 0.01  # of the mean second moment, for directions that hardly any row has


def excess_filter(retain: Tensor, forget: Tensor, contrast: float) -> Tensor:
    """Return the matrix P (d, d) for which a layer that learned Δ (outputs, d) gives back Δ P.

    With C_f u = ρ C_r u and x = λ max(ρ − 1, 0), it gives back the share x / (1 + x) of what Δ makes of the direction u.

    Args:
        retain, forget: second moments C_r and C_f of the inputs of the layer, (d, d).
        contrast: λ, not negative.
    """
    retain, forget = retain.cpu().double(), forget.cpu().double()
    ridge = RIDGE * retain.trace() / len(retain) * torch.eye(len(retain), dtype=torch.double)
    root = torch.linalg.cholesky(retain + ridge)
    half = torch.linalg.solve_triangular(root, forget + ridge, upper=False)
    ratio, directions = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.T, upper=False))
    excess, directions = contrast * (ratio - 1)[ratio > 1], directions[:, ratio > 1]
    readers = torch.linalg.solve_triangular(root.T, directions, upper=True)
    return (root @ directions * (excess / (1 + excess))) @ readers.T


def second_moments(
    run: UnlearningRun, layers: Mapping[str, nn.Linear], rows: PreparedRows
) -> dict[str, tuple[str, Tensor]]:
    """Return for each layer the mean of x xᵀ over the tokens x that it reads for `rows`, with a 1 at the end of each x.

    At most `ROWS` rows are read, and tokens of padding do not count. Layers that read the same tensor share one matrix: each comes
    with the name of the first of these layers, and the matrix (d + 1, d + 1). A layer that reads nothing, as an expert that no row
    is sent to, is left out. Processes share the rows.
    """
    model, sums = unwrap(run.model), _Sums()
    chosen = drawn_rows(len(rows), ROWS, run.args.seed)
    part = chosen[list(own_part(len(chosen)))]
    with ExitStack() as hooks:
        for handle in sums.hooks(model, layers):
            hooks.callback(handle.remove)
        drawn = DrawnRows(rows, part)
        for _ in answers(run.model, drawn, run.processor.collate, run.args.eval_batch_size, any_order=True):
            pass
    # A process may have seen fewer layers than another, and all have to add up the same ones.
    firsts = {name: first for seen in together([sums.firsts]) for name, first in seen.items()}
    means = {}
    for name in (name for name in layers if firsts.get(name) == name):
        own, size = sums.totals.get(name), layers[name].in_features + 1
        total = sum_over_processes(torch.zeros(size, size, device=run.args.device) if own is None else own)
        means[name] = (total / total[-1, -1]).cpu()
    return {name: (firsts[name], means[firsts[name]]) for name in layers if name in firsts}


class _Sums:
    """Sums of x xᵀ over tokens: `totals` for the first of the layers that read one tensor, and `firsts` for each layer its name."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.firsts: dict[str, str] = {}
        self._mask: Tensor | None = None
        self._latest: tuple[str, Tensor | None] = (
            "",
            None,
        )  # the first of the layers that read what was read last, and that

    def hooks(self, model: nn.Module, layers: Mapping[str, nn.Linear]) -> Iterable[Any]:
        yield model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for name, layer in layers.items():
            yield layer.register_forward_pre_hook(partial(self._add, name))

    def _begin(self, _model: nn.Module, _inputs: Any, named: Mapping[str, Any]) -> None:
        self._mask = named.get("attention_mask")

    def _add(self, name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, (before, read) = inputs[0], self._latest
        first = self.firsts.setdefault(name, before if read is x else name)
        self._latest = (first, x)
        if first != name:
            return
        tokens = x.flatten(0, -2)
        if self._mask is not None and x.ndim == 3 and self._mask.shape == x.shape[:2]:
            tokens = x[self._mask.bool()]
        tokens = F.pad(tokens.float(), (0, 1), value=1.0)
        self.totals[name] = tokens.T @ tokens + self.totals.get(name, 0)

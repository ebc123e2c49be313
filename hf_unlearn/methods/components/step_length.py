"""How far along a displacement of the weights to go: as far as the outputs allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.sampling import DrawnRows
from ...models.forward import unwrap
from ...models.prediction import answers
from ...models.reference import SAMPLES_FLOOR
from ...utils.distributed import sum_over_processes
from ..protocols import UnlearningRun
from .influence import Sample

FLOOR = 0.01
SHORTEST = 2.0**-20  # of the first guess: what is shorter is nothing
PROBE = 256  # rows of each set
PRECISION = 1.2  # ratio of the two lengths between which the search ends


def farthest(far_enough: Callable[[float], bool], guess: float, most: float) -> float:
    """The length at which `far_enough` starts to hold, within 10 %, searched from `guess`; `most` where it never does.

    Doubles or halves until the length is between two others, then takes geometric means.
    """
    low, high, at = 0.0, 0.0, min(guess, most)
    for _ in range(64):
        if far_enough(at):
            high = at
            if high < SHORTEST * min(guess, most):
                return 0.0
        elif at >= most:
            return most
        else:
            low = at
        if low and high and high / low <= PRECISION:
            break
        at = (low * high) ** 0.5 if low and high else (high / 2 if high else min(2 * low, most))
    return (low * high) ** 0.5 if low else high


class Ray:
    """The line θ + sΔ from a model's weights as they are, along which no layer moves by more than `clip` of its norm.

    Args:
        model: whose parameters `go` writes.
        layers: layer -> names of its parameters.
        displacement: Δ, name -> tensor in the shape of the parameter.
        clip: c.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Sequence[str]], displacement: Mapping[str, Tensor], clip: float
    ) -> None:
        self.layers, self.displacement = layers, displacement
        self.parameters = {n: unwrap(model).get_parameter(n) for names in layers.values() for n in names}
        self.start = {n: p.detach().clone() for n, p in self.parameters.items()}
        # as in `TrustRegion`, a root mean square of 0.01 at least, so that layers of zeros may move
        self.sizes = {
            layer: max(_norm(self.start[n] for n in names), FLOOR * sum(self.start[n].numel() for n in names) ** 0.5)
            for layer, names in layers.items()
        }
        lengths = {layer: _norm(displacement[n] for n in names) for layer, names in layers.items()}
        self.lengths = {n: length / self.sizes[n] for n, length in lengths.items()}
        """layer -> ‖Δ‖/‖θ‖."""
        self.longest = {n: clip / length if length else math.inf for n, length in self.lengths.items()}

    @torch.no_grad()
    def go(self, s: float) -> None:
        """Set the weights to those at `s`."""
        for layer, names in self.layers.items():
            for n in names:
                move = self.displacement[n].to(self.start[n])
                self.parameters[n].copy_(torch.add(self.start[n], move, alpha=min(s, self.longest[layer])))

    def gone(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """How far the weights are from the start: name -> tensor in fp32, and layer -> norm over that of its weights."""
        moves = {n: p.detach().float() - self.start[n].float() for n, p in self.parameters.items()}
        norms = {layer: _norm(moves[n] for n in names) for layer, names in self.layers.items()}
        return moves, {n: norm / self.sizes[n] for n, norm in norms.items()}


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(t.float().square().sum().item() for t in tensors))


class OutputProbe:
    """What some rows of each set are told, by the model as it is when asked; processes share the rows.

    Attributes:
        target: share of the forget set that may still be answered as before, or None.
        known: whether that was said, or is sure; an estimate it is otherwise.

    Args:
        run: its model still is the original, whose outputs are kept.
        forget, retain: samples that the displacement is taken from. The probe draws at most 256 rows of its own: those
            that the displacement was made to spare would move too little.
    """

    def __init__(self, run: UnlearningRun, forget: Sample, retain: Sample) -> None:
        self.run = run
        self.forget, self.retain = (
            Sample(s.rows, s.collate, min(s.cap, PROBE), s.seed + 1, s.batch_size) for s in (forget, retain)
        )
        self.before = self._log_probabilities(self.retain)
        given, self.known = run.args.forget_target, True
        if given is not None:
            self.target = given if given >= 0 else None
        elif run.reference.forgotten_classes:
            self.target = run.monitor.target
        else:  # of single rows: a retrained model errs on them at least as often as the original on unseen ones
            self.target, self.known = run.monitor.held_out_accuracy(), False

    def far_enough(self, trust: float, reach: float) -> bool:
        """Whether the forget set is at its target, or the outputs on rows to keep have moved by `reach` nats.

        Where the target is no more than an upper bound, or none is known, they move by `trust` nats in any case.
        """
        moved = self.moved()
        bounded = self.known and self.target is not None
        return moved > reach or (
            (bounded or moved > trust) and (self.target is None or self.remembered() <= self.target)
        )

    def at_target(self) -> bool:
        """Whether no more of the forget set is remembered than its target, or than is sure to be too much."""
        if self.target is None and self.known:
            return False
        return self.remembered() <= (SAMPLES_FLOOR if self.target is None else self.target)

    def moved(self) -> float:
        """Mean KL(original ‖ model), in nats, over rows to keep; infinite where an output is NaN."""
        now = self._log_probabilities(self.retain)
        total = sum_over_processes(F.kl_div(now, self.before, reduction="sum", log_target=True).double())
        moved = total.item() / len(self.retain)
        return math.inf if math.isnan(moved) else moved

    def remembered(self) -> float:
        """Share of rows to forget that are answered as before (`Reference.remembered`)."""
        index = torch.from_numpy(self.forget.own_rows())
        same = self.run.reference.remembered(self._log_probabilities(self.forget), index).sum().double()
        return sum_over_processes(same).item() / len(self.forget)

    def _log_probabilities(self, sample: Sample) -> Tensor:
        """(own rows, classes)."""
        model, rows = self.run.model, DrawnRows(sample.rows, sample.own_rows())
        found = [a.logits.float().log_softmax(-1) for a in answers(model, rows, sample.collate, sample.batch_size)]
        device, classes = next(model.parameters()).device, self.run.reference.logits.shape[-1]
        return torch.cat(found) if found else torch.zeros(0, classes, device=device)

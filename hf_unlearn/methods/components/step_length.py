"""How far to go along a displacement of the weights: as far as the outputs allow."""

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

SMALLEST_RMS = 0.01  # root mean square that a layer counts as having at least, so that layers of zeros may move
SHORTEST = 2.0**-20  # share of the first guess under which a length counts as 0
PROBE_ROWS = 256  # rows of each set
PRECISION = 1.2  # ratio of the two lengths between which the search ends


def farthest(far_enough: Callable[[float], bool], guess: float, most: float) -> float:
    """Return the length at which `far_enough` starts to hold, within 10 %; `most` if it never does.

    The search starts at `guess`. It doubles or halves the length until two lengths enclose the answer, and then takes
    geometric means.
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
    """The line θ + sΔ from a model's present weights, along which no layer moves by more than `clip` of its norm.

    Attributes:
        lengths: layer -> ‖Δ‖/‖θ‖.

    Args:
        model: whose parameters `move_to` writes.
        layers: layer -> names of its parameters.
        displacement: Δ, name -> tensor in the shape of the parameter.
        clip: largest norm of a layer's move, as a share of the norm of its weights.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Sequence[str]], displacement: Mapping[str, Tensor], clip: float
    ) -> None:
        self.layers, self.displacement = layers, displacement
        self.parameters = {n: unwrap(model).get_parameter(n) for names in layers.values() for n in names}
        self.start = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.sizes: dict[str, float] = {}
        for layer, names in layers.items():
            smallest = SMALLEST_RMS * sum(self.start[n].numel() for n in names) ** 0.5
            self.sizes[layer] = max(_norm(self.start[n] for n in names), smallest)
        self.lengths = {k: _norm(displacement[n] for n in names) / self.sizes[k] for k, names in layers.items()}
        self.longest = {k: clip / length if length else math.inf for k, length in self.lengths.items()}

    @torch.no_grad()
    def move_to(self, s: float) -> None:
        """Set the weights to those at `s`."""
        for layer, names in self.layers.items():
            for n in names:
                move = self.displacement[n].to(self.start[n])
                self.parameters[n].copy_(torch.add(self.start[n], move, alpha=min(s, self.longest[layer])))

    def moved_by(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the way from the start: name -> tensor in fp32, and layer -> norm as a share of that of its weights."""
        moves = {n: p.detach().float() - self.start[n].float() for n, p in self.parameters.items()}
        return moves, {k: _norm(moves[n] for n in names) / self.sizes[k] for k, names in self.layers.items()}


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(t.float().square().sum().item() for t in tensors))


class OutputProbe:
    """The outputs of the present model on some rows of each set, compared with the original's; processes share the rows.

    Attributes:
        target: share of the forget set that may still be answered as before, or None.
        target_is_exact: True if the user set the target or it follows from the request. False if it was estimated from
            held-out accuracy.

    Args:
        run: its model still is the original, whose outputs are stored.
        forget, retain: samples that the displacement is computed from. The probe draws at most 256 rows of its own, because
            the displacement spares its own rows and would move their outputs too little.
    """

    def __init__(self, run: UnlearningRun, forget: Sample, retain: Sample) -> None:
        self.run = run
        self.forget, self.retain = (
            Sample(s.rows, s.collate, min(s.cap, PROBE_ROWS), s.seed + 1, s.batch_size) for s in (forget, retain)
        )
        self.before = self._log_probabilities(self.retain)
        given, self.target_is_exact = run.args.forget_target, True
        if given is not None:
            self.target = given if given >= 0 else None
        elif run.reference.forgotten_classes:
            self.target = run.monitor.target
        else:  # a retrained model errs on single rows at least as often as the original does on unseen ones
            self.target, self.target_is_exact = run.monitor.held_out_accuracy(), False

    def far_enough(self, trust: float, reach: float) -> bool:
        """Return True if the forget set is at its target, or outputs on retained rows have moved by `reach` nats.

        If the target is an estimate, or if there is none, these outputs move by `trust` nats in any case.
        """
        moved = self.moved()
        bounded = self.target_is_exact and self.target is not None
        return moved > reach or (
            (bounded or moved > trust) and (self.target is None or self.remembered() <= self.target)
        )

    def at_target(self) -> bool:
        """Return True if the remembered share of the forget set is at most the target, or SAMPLES_FLOOR if none is known."""
        if self.target is None and self.target_is_exact:
            return False
        return self.remembered() <= (SAMPLES_FLOOR if self.target is None else self.target)

    def moved(self) -> float:
        """Return the mean KL(original ‖ model) on retained rows, in nats; infinite if an output is NaN."""
        now = self._log_probabilities(self.retain)
        total = sum_over_processes(F.kl_div(now, self.before, reduction="sum", log_target=True).double())
        moved = total.item() / len(self.retain)
        return math.inf if math.isnan(moved) else moved

    def remembered(self) -> float:
        """Return the share of forget rows that are answered as before (`Reference.remembered`)."""
        index = torch.from_numpy(self.forget.own_rows())
        same = self.run.reference.remembered(self._log_probabilities(self.forget), index).sum().double()
        return sum_over_processes(same).item() / len(self.forget)

    def _log_probabilities(self, sample: Sample) -> Tensor:
        """Return the log-probabilities (own rows, classes) of the present model."""
        model, rows = self.run.model, DrawnRows(sample.rows, sample.own_rows())
        found = [a.logits.float().log_softmax(-1) for a in answers(model, rows, sample.collate, sample.batch_size)]
        device, classes = next(model.parameters()).device, self.run.reference.logits.shape[-1]
        return torch.cat(found) if found else torch.zeros(0, classes, device=device)

"""Which of the given models are yardsticks: trained anew, each for itself, and without the forget set.

A model that is not compared with honest ones can pass any comparison. So a model that shows one of the faults below is left out,
and the fault is named. A yardstick that hides its fault as well as the judged model does cannot be found by this.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from .evidence import estimate_share, separation
from .evidence_lines import FEWEST_ROWS, divergence
from .model_outputs import Measured

REMEMBERS = 0.05  # share of a forgotten class that a model which was never taught it may still name
KNOWS_ROWS = 0.6  # AUC of forget against unseen rows, above which a model was trained on the forget rows
UNFIT = 0.05  # accuracy on kept rows by which a yardstick may be below the original
NEAR = 0.05  # times as far from each other in their outputs as from the original: independent trainings are 0.25 to 1 times
PARALLEL = 0.8  # cosine of the ways from the original's weights to those of two models: of independent ones 0.5 to 0.6
# Cosine of the weights of two models. Fine-tuning leaves it above 0.99, and of models that began with other weights it is near 0.
ONE_START, OTHER_START = 0.9, 0.5
FAR = 10.0  # times as far from the original as the nearest yardstick: training began elsewhere


@dataclass(frozen=True)
class Yardsticks:
    """Decides which models serve as yardsticks.

    Attributes:
        classes: ids of the classes that were forgotten as a whole; empty if single rows were forgotten.
        in_forgotten_class: (test rows,) boolean, true for test rows of these classes.
        same_shares: True if forget and test rows have labels in the same shares.
        original: the model that learned everything.
        alpha: level of the tests.
    """

    classes: tuple[int, ...]
    in_forgotten_class: Tensor
    same_shares: bool
    original: Measured
    alpha: float = 0.05

    def sound(self, unlearned: Measured, given: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
        """Return the models that serve as yardsticks for `unlearned`, and for each other one a sentence that says why not."""
        faults = {model.name: fault for model in given if (fault := self.fault_of(model))}
        sound = [model for model in given if model.name not in faults]
        for model in sound:
            if found := self.likeness(model, unlearned):
                faults[model.name] = f"it and `{unlearned.name}` were made from one another: {found}."
        for first, second in combinations(sound, 2):
            if self._share_another_start(first, second):
                told = "its weights and those of `{}` are alike, and unlike the original's: both started from another model. "
                told += "Start every training where that of the original started."
            elif found := self.likeness(first, second):
                told = f"it and `{{}}` are too like to be trained independently: {found}. Train each with a seed of its own, "
                told += "or give one of them if your training gives the same model for each seed."
            else:
                continue
            faults.setdefault(first.name, told.format(second.name))
            faults.setdefault(second.name, told.format(first.name))
        sound = [model for model in sound if model.name not in faults]
        near = min((way for m in sound if (way := self._way(m))), default=math.inf)
        for model in sound:
            if (way := self._way(model)) and way > FAR * near:
                faults[model.name] = (
                    f"its weights lie {way / near:.0f} times as far from the original's as those of the nearest retrained model. "
                    "Start every training where that of the original started."
                )
        return [m for m in sound if m.name not in faults], [f"`{n}` is no yardstick: {f}" for n, f in faults.items()]

    def fault_of(self, model: Measured) -> str:
        """Return why `model` by itself cannot be a yardstick, "" if nothing speaks against it."""
        forget, z = model.outputs["forget"], float(stats.norm.ppf(1 - self.alpha))
        if self.classes:
            known = estimate_share(forget.right)
            if known.value - z * known.error > REMEMBERS:
                return (
                    f"it answers {known.value:.0%} of the forget rows with their class, which a model that was trained without "
                    "this class never does."
                )
        elif self.same_shares and min(len(forget.labels), len(model.outputs["test"].labels)) >= FEWEST_ROWS:
            member = separation(forget.margin.numpy(), model.outputs["test"].margin.numpy())
            if member.value - z * member.error > KNOWS_ROWS:
                return (
                    f"it fits forget rows better than unseen rows (AUC {member.value:.2f}), so it was trained on them."
                )
        # Rows that it was trained on say more than unseen ones.
        name, of_set = ("retain set", "retain") if "retain" in model.outputs else ("kept test rows", "test")
        right, theirs = (estimate_share(self._kept(m, of_set)) for m in (model, self.original))
        gap = right - theirs
        if gap.value + z * gap.error < -UNFIT:
            return (
                f"it is right on {right.value:.1%} of the {name}, and the original on {theirs.value:.1%}. Train it as long as the "
                "original."
            )
        return ""

    def likeness(self, model: Measured, other: Measured) -> str:
        """Return how two models are more alike than independent trainings make them; "" if they are not."""
        apart, own = self._apart(model, other), min(self._apart(m, self.original) for m in (model, other))
        if apart < NEAR * own:
            return f"their outputs on kept rows differ {apart / own:.3f} times as much as from the original's"
        ways = [self._moved(m) for m in (model, other)]
        if all(way is not None and way.any() for way in ways):
            cosine = float(F.cosine_similarity(*ways, dim=0))  # type: ignore[misc, arg-type]
            if cosine > PARALLEL:
                return f"the ways from the original's weights to theirs are parallel (cosine {cosine:.3f})"
        return ""

    def _share_another_start(self, model: Measured, other: Measured) -> bool:
        """Return True if two models began with the same weights, and the original with others."""
        a, b, original = model.sample, other.sample, self.original.sample
        if a is None or b is None or original is None:
            return False
        cosines = [float(F.cosine_similarity(x, y, dim=0)) for x, y in ((a, b), (a, original), (b, original))]
        return cosines[0] > ONE_START and max(cosines[1:]) < OTHER_START

    def _kept(self, model: Measured, name: str) -> Tensor:
        """Whether the kept rows of a set are answered right (n,)."""
        right = model.outputs[name].right
        return right[~self.in_forgotten_class] if name == "test" else right

    def _apart(self, a: Measured, b: Measured) -> float:
        """Mean divergence of two models' outputs on kept test rows."""
        logits = (m.outputs["test"].logits[~self.in_forgotten_class] for m in (a, b))
        return float(np.mean(divergence(*logits)))

    def _moved(self, model: Measured) -> Tensor | None:
        """The way from the original's weights to those of `model`; None for another network."""
        return None if model.sample is None or self.original.sample is None else model.sample - self.original.sample

    def _way(self, model: Measured) -> float | None:
        moved = self._moved(model)
        return None if moved is None else float(moved.norm())

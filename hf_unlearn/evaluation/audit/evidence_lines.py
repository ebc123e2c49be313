"""The figures of an audit: one function for each line of `verdicts.SPECS`, and what retraining is expected to give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...metrics.functional.distance import divergences
from .evidence import Estimate, estimate_mean, estimate_share, separation
from .model_outputs import FLOOR, Measured, Outputs
from .probing import class_probe, membership_probe

FEWEST = 5  # rows on either side of a comparison
NEAREST = 1e-4  # 1 − CKA of features that are the original's own
EXACTLY = 0.01  # nats of log-odds: the same answer, for the same reason


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures of measured models on the same sets; some are relative to the retrained models.

    Attributes:
        classes: ids of the classes that were forgotten as a whole; empty where single rows were.
        gone: (test rows,) boolean, true for test rows of these classes.
        alike: whether forget and test rows have labels in like shares.
        original: the model that learned everything.
        retrained: the models trained without the forget set.
    """

    classes: tuple[int, ...]
    gone: Tensor
    alike: bool
    original: Measured
    retrained: Sequence[Measured]

    def of(self, key: str, model: Measured) -> Estimate | None:
        """The figure `key` of `model`, None where these sets or models do not allow it."""
        figure: Callable[[Measured], Estimate | None] = getattr(self, "_" + key)
        return figure(model)

    def expected(self, key: str, known: Sequence[Estimate]) -> Estimate | None:
        """What retraining gives for `key`, None where that is unknown. `known` are the retrained models' figures."""
        if key in ("membership", "membership_probe") and not self.retrained and not self.alike:
            return None  # what sets the rows apart may be what they are
        if key in ("membership", "class_membership") or (key == "membership_probe" and not known):
            return Estimate(0.5)
        if key == "divergence" and not self.classes:
            return Estimate(0.0)  # forget rows are to a retrained model what test rows are
        if key == "estrangement":
            return self._distance(self._struck_out(), self.retrained)
        if known:
            return Estimate.mean(known)
        if self.retrained:
            return None
        if key in ("test_accuracy", "retain_accuracy"):
            return self.of(key, self.original)
        never_taught = ("forget_accuracy", "test_forgotten_accuracy", "int8", "bf16")
        return Estimate(0.0) if key in ("adapter", "identical") or (self.classes and key in never_taught) else None

    # --- memory ---

    def _forget_accuracy(self, model: Measured) -> Estimate:
        return estimate_share(model.outputs["forget"].right)

    def _test_forgotten_accuracy(self, model: Measured) -> Estimate | None:
        gone = model.outputs["test"].right[self.gone]
        return estimate_share(gone) if self.classes and len(gone) else None

    def _membership(self, model: Measured) -> Estimate | None:
        """The log-odds that retraining gives a row say how hard it is; without a retrained model they are taken as they are."""
        others = [r for r in self.retrained if r is not model]
        if self.classes or (not others and model in self.retrained):
            return None
        return self._attack(*self._margins(model, others))

    def _class_membership(self, model: Measured) -> Estimate | None:
        others = [r for r in self.retrained if r is not model]
        if not self.classes or not others:
            return None
        forget, test = self._margins(model, others)
        return self._attack(forget, test[self.gone.numpy()])

    @staticmethod
    def _attack(forget: np.ndarray, unseen: np.ndarray) -> Estimate | None:
        return separation(forget, unseen) if min(len(forget), len(unseen)) >= FEWEST else None

    @staticmethod
    def _margins(model: Measured, others: Sequence[Measured]) -> list[np.ndarray]:
        """Log-odds of the label on forget and test rows, less what a line through those of `others` on test rows foretells.

        The line takes out how hard a row is, and the model's own scale, which a temperature would change.
        """
        forget, test = (model.outputs[name].margin.numpy() for name in ("forget", "test"))
        if not others:
            return [forget, test]
        hard, unseen = (
            np.mean([o.outputs[name].margin.numpy() for o in others], axis=0) for name in ("forget", "test")
        )
        slope = np.cov(test, unseen)[0, 1] / max(unseen.var(), 1e-12)
        return [forget - slope * hard, test - slope * unseen]

    def _identical(self, model: Measured) -> Estimate:
        return self._like_the_original(model.outputs["forget"])

    # --- how outputs look ---

    def _confidence(self, model: Measured) -> Estimate | None:
        forget, test = model.outputs["forget"].confidence, model.outputs["test"].confidence[~self.gone]
        return self._attack(forget.numpy(), test.numpy())

    def _divergence(self, model: Measured) -> Estimate | None:
        others = [r for r in self.retrained if r is not model]
        if not others or (self.classes and len(self.retrained) < 2):
            return None
        forget = self._distance(model.outputs["forget"], others)
        if self.classes:
            return forget
        test = np.mean([divergence(model.outputs["test"].logits, o.outputs["test"].logits) for o in others], axis=0)
        return Estimate(forget.value - test.mean(), (*forget.rows, test.mean() - test))

    def _estrangement(self, model: Measured) -> Estimate | None:
        others = [r for r in self.retrained if r is not model]
        return self._distance(model.outputs["forget"], others) if self.classes and others else None

    @staticmethod
    def _distance(outputs: Outputs, others: Sequence[Measured]) -> Estimate:
        return estimate_mean(np.mean([divergence(outputs.logits, o.outputs["forget"].logits) for o in others], axis=0))

    def _struck_out(self) -> Outputs:
        """What hiding the classes behind the original would give."""
        was = self.original.outputs["forget"]
        return Outputs(was.logits.index_fill(-1, torch.tensor(self.classes), FLOOR), was.features, was.labels)

    # --- kept data ---

    def _test_accuracy(self, model: Measured) -> Estimate:
        return estimate_share(model.outputs["test"].right[~self.gone])

    def _retain_accuracy(self, model: Measured) -> Estimate | None:
        return estimate_share(model.outputs["retain"].right) if "retain" in model.outputs else None

    def _calibration(self, model: Measured) -> Estimate:
        return estimate_mean(model.outputs["test"].confidence[~self.gone])

    # --- behind the outputs ---

    def _relearning(self, model: Measured) -> Estimate | None:
        return estimate_mean(np.log1p([curve[-1][0] for curve in model.curves])) if model.curves else None

    def _class_probe(self, model: Measured) -> Estimate | None:
        if not self.gone.any() or not self.classes:
            return None
        if "class" not in model.probes:
            model.probes["class"] = self._fit_class_probe(model)
        return model.probes["class"]

    def _fit_class_probe(self, model: Measured) -> Estimate:
        out = model.outputs
        kept = (~self.gone).nonzero()[:, 0]
        taught, asked = kept[::2], kept[1::2]  # without a retain set half of the kept test rows teach
        if "retain" in out:
            others, asked = out["retain"].features, kept
        else:
            others = out["test"].features[taught]
        train = torch.cat([out["forget"].features, others])
        is_gone = torch.arange(len(train)) < len(out["forget"].labels)
        test = torch.cat([out["test"].features[self.gone], out["test"].features[asked]])
        return class_probe(train, is_gone, test, torch.arange(len(test)) < int(self.gone.sum()))

    def _membership_probe(self, model: Measured) -> Estimate | None:
        forget, test = model.outputs["forget"].features, model.outputs["test"].features
        if self.classes or min(len(forget), len(test)) < FEWEST:
            return None
        if "membership" not in model.probes:
            model.probes["membership"] = membership_probe(forget, test)
        return model.probes["membership"]

    def _features(self, model: Measured) -> Estimate:
        return Estimate(-math.log(1 - model.similarity + NEAREST))

    def _unchanged(self, model: Measured) -> Estimate:
        return Estimate(model.unchanged)

    def _int8(self, model: Measured) -> Estimate:
        return estimate_share(model.rounded["int8"])

    def _bf16(self, model: Measured) -> Estimate:
        return estimate_share(model.rounded["bf16"])

    def _adapter(self, model: Measured) -> Estimate | None:
        below: Any = model.switched_off
        if below is None:
            if model is not self.original and model not in self.retrained:
                return None
            below = model.outputs["forget"]
        return self._like_the_original(below)

    def _like_the_original(self, outputs: Outputs) -> Estimate:
        return estimate_share((outputs.margin - self.original.outputs["forget"].margin).abs() < EXACTLY)


def divergence(a: Tensor, b: Tensor) -> np.ndarray:
    """Jensen–Shannon divergence of softmax outputs (n, classes), row by row, as a share of ln 2: (n,) in [0, 1]."""
    return (divergences(a, b) / math.log(2)).clamp(0, 1).numpy()

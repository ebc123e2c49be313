"""The figures of an audit: `FIGURES` has one for each key of `verdicts.SPECS`, `Figures.expected` what retraining gives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...metrics.functional.distance import divergences
from .evidence import Estimate, estimate_mean, estimate_share, separation
from .model_outputs import DEPTHS, FLOOR, Measured, Outputs
from .probing import class_probe, feature_likeness, membership_probe, prototypes

FEWEST_ROWS = 5  # on either side of a comparison
SAME_ANSWER = 0.01  # nats: log-odds that differ by less come from the same network


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures of measured models on the same sets. Some of them are relative to the retrained models.

    Attributes:
        classes: ids of the classes that were forgotten as a whole; empty if single rows were forgotten.
        in_forgotten_class: (test rows,) boolean, true for test rows of these classes.
        same_shares: True if forget and test rows have labels in the same shares.
        original: the model that learned everything.
        retrained: the models trained without the forget set.
        seed: seed of draws of rows. Default 0.
    """

    classes: tuple[int, ...]
    in_forgotten_class: Tensor
    same_shares: bool
    original: Measured
    retrained: Sequence[Measured]
    seed: int = 0

    def of(self, key: str, model: Measured) -> Estimate | None:
        """Return the figure `key` of `model`; None if the sets or models do not allow it."""
        return FIGURES[key](self, model)

    def if_hidden(self, key: str) -> Estimate | None:
        """Return what `key` is of an original that only does not answer the forgotten classes; None if that is the original's.

        The original has nothing to relearn, so its own steps are no retrained model's whatever the line can find.
        """
        return _steps(self.original.hidden_curves) if key == "relearning" else None

    def expected(self, key: str, known: Sequence[Estimate]) -> Estimate | None:
        """Return what retraining gives for `key`; None if that is unknown. `known`: the figures of the retrained models."""
        if key in ("membership", "membership_probe") and not self.retrained and not self.same_shares:
            return None  # forget and test rows may differ by what they are, not by who was trained on them
        if key in ("membership", "class_membership") or (key == "membership_probe" and not known):
            return Estimate(0.5)
        if key == "divergence" and not self.classes:
            return Estimate(0.0)  # forget rows are to a retrained model what test rows are
        if key == "estrangement":
            return _distance(self.without_forgotten_classes(), self.retrained)
        if known:
            return Estimate.mean(known)
        if self.retrained:
            return None
        if key == "unchanged":
            return Estimate(0.0)  # with its margin, only a whole network that no step has moved counts
        if key in ("test_accuracy", "retain_accuracy"):
            return self.of(key, self.original)
        never_taught = ("forget_accuracy", "test_forgotten_accuracy", "int8", "bf16")
        return Estimate(0.0) if key in ("adapter", "identical") or (self.classes and key in never_taught) else None

    def _others(self, model: Measured) -> list[Measured]:
        """The retrained models to compare `model` with: all but itself."""
        return [r for r in self.retrained if r is not model]

    def share_right_on_forgotten_classes(self, model: Measured) -> Estimate | None:
        right = model.outputs["test"].right[self.in_forgotten_class]
        return estimate_share(right) if self.classes and len(right) else None

    def membership(self, model: Measured) -> Estimate | None:
        others = self._others(model)
        if self.classes or (not others and model in self.retrained):
            return None
        return _attack(*_log_odds(model, others))

    def class_membership(self, model: Measured) -> Estimate | None:
        others = self._others(model)
        if not self.classes or not others:
            return None
        forget, test = _log_odds(model, others)
        return _attack(forget, test[self.in_forgotten_class.numpy()])

    def confidence(self, model: Measured) -> Estimate | None:
        test = model.outputs["test"].confidence[~self.in_forgotten_class]
        return _attack(model.outputs["forget"].confidence.numpy(), test.numpy())

    def divergence(self, model: Measured) -> Estimate | None:
        others = self._others(model)
        if not others or (self.classes and len(self.retrained) < 2):
            return None
        forget = _distance(model.outputs["forget"], others)
        if self.classes:
            return forget
        test = np.mean([divergence(model.outputs["test"].logits, o.outputs["test"].logits) for o in others], axis=0)
        return Estimate(forget.value - test.mean(), (*forget.rows, test.mean() - test))

    def estrangement(self, model: Measured) -> Estimate | None:
        others = self._others(model)
        return _distance(model.outputs["forget"], others) if self.classes and others else None

    def without_forgotten_classes(self) -> Outputs:
        """The original's outputs on the forget set if the forgotten classes were only hidden."""
        was = self.original.outputs["forget"]
        return Outputs(was.logits.index_fill(-1, torch.tensor(self.classes), FLOOR), was.features, was.labels)

    def class_probe(self, model: Measured) -> Estimate | None:
        if not self.in_forgotten_class.any() or not self.classes:
            return None
        if "class" not in model.probes:
            model.probes["class"] = self._fit_class_probe(model)
        return model.probes["class"]

    def _fit_class_probe(self, model: Measured) -> Estimate:
        forget, test = model.outputs["forget"].features, model.outputs["test"].features
        kept, gone = test[~self.in_forgotten_class], test[self.in_forgotten_class]
        if "retain" in model.outputs:
            train_kept, test_kept = model.outputs["retain"].features, kept
        else:  # half of the kept test rows train the probe, the other half measure it
            train_kept, test_kept = kept[::2], kept[1::2]
        train, asked = torch.cat([forget, train_kept]), torch.cat([gone, test_kept])
        return class_probe(train, torch.arange(len(train)) < len(forget), asked, torch.arange(len(asked)) < len(gone))

    def prototype(self, model: Measured, rows: int, blocks: Sequence[int]) -> Estimate | None:
        """`prototypes` of so many rows, the mean over `blocks`, which are places in `DEPTHS`.

        The last place of a model without blocks is what its last layer reads.
        """
        if not self.classes or not self.in_forgotten_class.any():
            return None
        found = [self._prototype_at(model, rows, block) for block in blocks]
        return None if any(f is None for f in found) else Estimate.mean(found)  # type: ignore[arg-type]

    def _prototype_at(self, model: Measured, rows: int, block: int) -> Estimate | None:
        def features(name: str) -> Tensor:
            outputs = model.outputs[name]
            return outputs.blocks[block] if outputs.blocks else outputs.features

        if not model.outputs["test"].blocks and block != len(DEPTHS) - 1:
            return None
        name = f"prototype of {rows} at {block}"
        if name not in model.probes:
            forget, test, gone = model.outputs["forget"], model.outputs["test"], self.in_forgotten_class
            if "retain" in model.outputs:
                kept, labels, asked = features("retain"), model.outputs["retain"].labels, torch.ones_like(gone)
            else:  # half of the kept test rows show the kept classes, the other half are asked about
                half = torch.zeros_like(gone)
                half[(~gone).nonzero()[::2, 0]] = True
                kept, labels, asked = features("test")[half], test.labels[half], ~half
            model.probes[name] = prototypes(
                features("forget"), forget.labels, kept, labels, features("test")[asked], gone[asked], rows, self.seed
            )
        return model.probes[name]

    def membership_probe(self, model: Measured) -> Estimate | None:
        forget, test = model.outputs["forget"].features, model.outputs["test"].features
        if self.classes or min(len(forget), len(test)) < FEWEST_ROWS:
            return None
        if "membership" not in model.probes:
            model.probes["membership"] = membership_probe(forget, test)
        return model.probes["membership"]

    def features(self, model: Measured) -> Estimate:
        if "features" not in model.probes:
            ours, theirs = (m.outputs["forget"].features for m in (model, self.original))
            model.probes["features"] = feature_likeness(ours, theirs)
        return model.probes["features"]

    def adapter(self, model: Measured) -> Estimate | None:
        if model.without_adapters is not None:
            return self.share_like_the_original(model.without_adapters)
        # Models to compare with need no adapter; without one they answer as they always do.
        reference = model is self.original or model in self.retrained
        return self.share_like_the_original(model.outputs["forget"]) if reference else None

    def share_like_the_original(self, outputs: Outputs) -> Estimate:
        return estimate_share((outputs.margin - self.original.outputs["forget"].margin).abs() < SAME_ANSWER)


LAST, INNER = [len(DEPTHS) - 1], range(len(DEPTHS) - 1)
Figure = Callable[[Figures, Measured], Estimate | None]
FIGURES: dict[str, Figure] = {
    "forget_accuracy": lambda _, model: estimate_share(model.outputs["forget"].right),
    "test_forgotten_accuracy": Figures.share_right_on_forgotten_classes,
    "membership": Figures.membership,
    "class_membership": Figures.class_membership,
    "identical": lambda figures, model: figures.share_like_the_original(model.outputs["forget"]),
    "confidence": Figures.confidence,
    "divergence": Figures.divergence,
    "estrangement": Figures.estrangement,
    "test_accuracy": lambda figures, model: estimate_share(model.outputs["test"].right[~figures.in_forgotten_class]),
    "retain_accuracy": lambda _, m: estimate_share(m.outputs["retain"].right) if "retain" in m.outputs else None,
    "calibration": lambda figures, model: estimate_mean(model.outputs["test"].confidence[~figures.in_forgotten_class]),
    "relearning": lambda _, model: _steps(model.curves),
    "class_probe": Figures.class_probe,
    "prototype": lambda figures, model: figures.prototype(model, 10, LAST),
    "inner_prototype": lambda figures, model: figures.prototype(model, 10, INNER),
    "single_row": lambda figures, model: figures.prototype(model, 1, LAST),
    "inner_single_row": lambda figures, model: figures.prototype(model, 1, INNER),
    "membership_probe": Figures.membership_probe,
    "features": Figures.features,
    "unchanged": lambda _, model: Estimate(model.unchanged),
    "int8": lambda _, model: estimate_share(model.rounded["int8"]),
    "bf16": lambda _, model: estimate_share(model.rounded["bf16"]),
    "adapter": Figures.adapter,
}


def _steps(curves: Sequence[Sequence[tuple[int, float]]]) -> Estimate | None:
    return estimate_mean(np.log1p([curve[-1][0] for curve in curves])) if curves else None


def _distance(outputs: Outputs, others: Sequence[Measured]) -> Estimate:
    return estimate_mean(np.mean([divergence(outputs.logits, o.outputs["forget"].logits) for o in others], axis=0))


def divergence(a: Tensor, b: Tensor) -> np.ndarray:
    """Return the Jensen–Shannon divergence of softmax outputs (n, classes), row by row, as a share of ln 2: in [0, 1]."""
    return (divergences(a, b) / math.log(2)).clamp(0, 1).numpy()


def _attack(forget: np.ndarray, unseen: np.ndarray) -> Estimate | None:
    return separation(forget, unseen) if min(len(forget), len(unseen)) >= FEWEST_ROWS else None


def _log_odds(model: Measured, others: Sequence[Measured]) -> list[np.ndarray]:
    """Log-odds of the label on forget and on test rows, less what a line through those of `others` on test rows predicts.

    The line takes out how hard a row is, and the scale of the model's logits, which a temperature would change. Without
    `others` the log-odds are returned as they are.
    """
    forget, test = (model.outputs[name].margin.numpy() for name in ("forget", "test"))
    if not others:
        return [forget, test]
    others_forget, others_test = (
        np.mean([o.outputs[name].margin.numpy() for o in others], axis=0) for name in ("forget", "test")
    )
    slope = np.cov(test, others_test)[0, 1] / max(others_test.var(), 1e-12)
    return [forget - slope * others_forget, test - slope * others_test]

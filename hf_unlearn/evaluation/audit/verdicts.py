"""From lines of evidence to a verdict in words: `SPECS` says what each line means, `decide` which reason comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a card needs the words of a verdict, and no scipy
    from .evidence import Evidence

SAME = "indistinguishable from retraining"
LESS = "forgotten less than retraining"
MORE = "forgotten more than retraining"
HIDDEN = "hidden, not forgotten"
DAMAGED = "model damaged"
UNCLEAR = "cannot tell with this much data"
UNCHANGED = "nothing changed"
VOID = "not comparable"

LEAST_SPREAD = 0.01  # standard deviation over seeds of a share of hits
KEPT = ("utility", "scale")  # groups of lines that are about what was to be kept, where the original is as it should be

MEANING = {
    SAME: "In every comparison the model lies inside the margin around retrained models, and the original model would not.",
    LESS: "The outputs still show something that a retrained model does not know.",
    MORE: "The model treats the forget rows in a way that retraining does not explain, so an attacker can find these rows.",
    HIDDEN: "Behind its outputs the model still knows: it can be brought back.",
    DAMAGED: "The model lost something that should have been kept.",
    UNCLEAR: "No comparison speaks clearly against the model, but not every comparison speaks for it.",
    UNCHANGED: "The model is the original: every weight and every answer is the same.",
    VOID: "The figures are those of retraining, but a model is not what it should be, so they prove nothing. The first sentences say why.",
}


@dataclass(frozen=True)
class Spec:
    """What one line of evidence means.

    Attributes:
        title, group: as in `Evidence`.
        practical: difference from retraining that is declared not to matter.
        default_spread: standard deviation over seeds of retraining that is assumed before the given retrained models are
            counted; `recipes/benchmarks/audit.py` measured it on small classifiers.
        relative_spread: the same as a part of what retraining gives, if that is less, and `LEAST_SPREAD` at least: seeds move a small
            share of hits by less than a large one. 0: the default spread counts everywhere.
        above, below: what a figure significantly above and below the margin means. If `below` is empty, only figures above
            the margin count.
        alone: the least that `practical` is if no retrained model is given.
        deep: True if the figure finds what outputs hide by other means than comparing weights.
    """

    title: str
    group: str
    practical: float
    default_spread: float
    above: str
    below: str = ""
    deep: bool = False
    alone: float = 0.05
    relative_spread: float = 0.0

    def spread_at(self, expected: float) -> float:
        """Return the standard deviation over seeds that is assumed where retraining gives `expected`."""
        if not self.relative_spread:
            return self.default_spread
        return min(self.default_spread, max(LEAST_SPREAD, self.relative_spread * abs(expected)))


SPECS: dict[str, Spec] = {
    "forget_accuracy": Spec("accuracy on the forget set", "memory", 0.03, 0.02,
        "answers the forget rows right more often than retraining would",
        "answers the forget rows right less often than a model that never saw them"),
    "test_forgotten_accuracy": Spec("test accuracy on the forgotten classes", "memory", 0.03, 0.01,
        "still recognises unseen rows of the forgotten classes", "fails on the forgotten classes more than retraining would"),
    "membership": Spec(
        "attack: forget against unseen rows, by log-odds of the label over retraining (AUC)", "memory", 0.05, 0.015,
        "fits forget rows better than unseen rows, as training data",
        "fits forget rows worse than unseen rows, so they stand out"),
    "class_membership": Spec(
        "attack: forget rows against unseen rows of their classes, by log-odds of the label over retraining (AUC)", "inside", 0.1, 0.02,
        "scores forget rows as training data, whatever it answers",
        "fits forget rows worse than unseen rows of their classes, so they stand out", deep=True),
    "identical": Spec("forget rows answered exactly as by the original", "memory", 0.3, 0.02,
        "gives the original's own outputs on the forget rows"),
    "confidence": Spec("attack: forget against unseen rows, by confidence (AUC)", "shape", 0.05, 0.04,
        "is surer on forget rows than retraining would be", "is less sure on forget rows than retraining would be"),
    "divergence": Spec("outputs on the forget set: Jensen–Shannon divergence to retraining (of 1)", "shape", 0.03, 0.03,
        "gives other outputs on the forget rows than retraining"),
    "estrangement": Spec(
        "outputs on the forget set: divergence to retraining, against the original with the forgotten classes hidden", "over", 0.05, 0.03,
        "gives outputs on the forget rows that neither retraining nor hiding explains"),
    "test_accuracy": Spec("test accuracy on what is kept", "utility", 0.02, 0.01,
        "knows more than retraining would leave", "answers kept test rows worse than retraining would"),
    "retain_accuracy": Spec("accuracy on the retain set", "utility", 0.02, 0.01,
        "knows more than retraining would leave", "answers retain rows worse than retraining would"),
    "calibration": Spec("mean confidence on kept test rows", "scale", 0.03, 0.02,
        "is surer everywhere than retraining would be", "is less sure everywhere than retraining would be"),
    "relearning": Spec("relearning the forgotten classes, ln(1 + steps), higher is slower", "depth", 0.4, 0.15,
        "relearns the forgotten classes more slowly than a retrained model",
        "relearns the forgotten classes much faster than a retrained model", deep=True),
    "class_probe": Spec("linear probe for the forgotten classes on frozen features", "inside", 0.03, 0.02,
        "features tell the forgotten classes apart better than a retrained model's",
        "features tell the forgotten classes apart worse than a retrained model's", deep=True),
    "prototype": Spec("prototype of ten forget rows, last block: hits − false alarms", "inside", 0.05, 0.045,
        "ten forget rows bring the forgotten classes back from its last features",
        "its last features hold the forgotten classes together less than a retrained model's", deep=True, relative_spread=0.1),
    "inner_prototype": Spec("prototype of ten forget rows, inner blocks: hits − false alarms", "inside", 0.05, 0.055,
        "ten forget rows bring the forgotten classes back from its inner features",
        "its inner features hold the forgotten classes together less than a retrained model's", deep=True, relative_spread=0.08),
    "single_row": Spec("prototype of a single forget row, last block: hits − false alarms", "inside", 0.05, 0.055,
        "a single forget row brings the forgotten classes back from its last features",
        "its last features hold the forgotten classes together less than a retrained model's", deep=True, relative_spread=0.18),
    "inner_single_row": Spec("prototype of a single forget row, inner blocks: hits − false alarms", "inside", 0.05, 0.055,
        "a single forget row brings the forgotten classes back from its inner features",
        "its inner features hold the forgotten classes together less than a retrained model's", deep=True, relative_spread=0.14),
    "membership_probe": Spec("linear probe: forget against unseen rows by features (AUC)", "inside", 0.05, 0.02,
        "features tell which rows it was trained on", "features set the forget rows apart", deep=True),
    "features": Spec("likeness of features to the original's on the forget set, −ln(1 − CKA)", "inside", 0.7, 0.25,
        "features on the forget rows are still arranged as the original's", deep=True),
    "unchanged": Spec("weights outside the head that are exactly the original's", "inside", 0.4, 0.0,
        "most of the network before the head is exactly the original's", alone=0.999),
    "int8": Spec("accuracy on the forget set after rounding to int8", "inside", 0.03, 0.02,
        "the forget set comes back when weights are rounded", "loses the forget set when weights are rounded"),
    "bf16": Spec("accuracy on the forget set after rounding to bf16", "inside", 0.03, 0.02,
        "the forget set comes back when weights are rounded", "loses the forget set when weights are rounded"),
    "adapter": Spec("forget rows answered exactly as by the original with adapters off", "switch", 0.2, 0.0,
        "switching its adapter off gives the original back"),
}  # fmt: skip


def decide(lines: Sequence[Evidence], compared: bool) -> tuple[str, list[str]]:
    """Return the verdict, and the keys of the lines that it rests on.

    If several reasons hold, the verdict names the one that says most about the forget rows: adapters that can be switched
    off, forget rows that stand out, damage, memory in the outputs, and then what lies behind the outputs.

    Args:
        lines: the lines that were compared with retraining.
        compared: True if a retrained model was given. Without one, no model is indistinguishable from retraining.
    """

    def found(group: str, side: int) -> list[str]:
        return [x.key for x in lines if x.side == side and group in (x.group, x.key)]

    # With a class less, the others are easier: a retrained model may do better on them than the original did.
    lost = [x.key for x in lines if x.key in found("utility", -1) and x.unlearned < x.original - x.practical]
    reasons: tuple[tuple[str, list[str]], ...] = (
        (HIDDEN, found("switch", 1)),
        (MORE, found("membership", -1) + found("class_membership", -1) + _singled_out(lines)),
        (DAMAGED, lost),
        (LESS, found("memory", 1)),
        (HIDDEN, found("unchanged", 1)),  # then only the last layer hides what the network still knows
        (MORE, found("over", 1) + found("memory", -1)),
        (HIDDEN, found("inside", 1) + ([] if only_relearns_faster(lines) else found("depth", -1))),
        (MORE, found("shape", 1) + found("shape", -1) + found("depth", 1)),
        (DAMAGED, found("scale", 1) + found("scale", -1) + found("inside", -1)),
        (LESS, found("utility", 1) + found("utility", -1)),
    )
    for verdict, keys in reasons:
        if keys:
            return verdict, keys
    open_lines = [line.key for line in lines if line.result != "equivalent"]
    if compared and not open_lines and not missing_power(lines):
        return SAME, [line.key for line in lines]
    return UNCLEAR, open_lines


def only_relearns_faster(lines: Sequence[Evidence]) -> bool:
    """Return True if the classes come back faster than in a retrained model, and nothing of them is found where it would show.

    A model that learned kept rows from the original's answers does this without ever having read a forget row: its last layer
    only puts the classes less far down. So this alone is no proof that they are hidden, and none that they are not.
    """
    inside = [x for x in lines if x.group == "inside" and x.telling and SPECS[x.key].deep]
    faster = any(x.group == "depth" and x.side < 0 for x in lines)
    return faster and bool(inside) and all(x.result == "equivalent" for x in inside)


def _singled_out(lines: Sequence[Evidence]) -> list[str]:
    """Keys of lines that show that the forget rows were treated apart, and not only hit by damage to all rows."""
    by_key = {line.key: line for line in lines}
    forget, test = by_key.get("forget_accuracy"), by_key.get("test_accuracy")
    out = []
    if forget is not None and test is not None and forget.side < 0:
        # Damage to all rows would not lower this accuracy by twice as much as that on unseen rows.
        out += [forget.key] if (forget.difference or 0.0) < 2 * min(test.difference or 0.0, 0.0) else []
    away, member = by_key.get("divergence"), by_key.get("membership")
    if away is not None and member is not None and away.side > 0 >= member.side:
        out.append(away.key)  # further from retraining than on unseen rows, and not because they are remembered
    return out


def missing_power(lines: Sequence[Evidence]) -> list[str]:
    """Return sentences that say why passing every line would mean nothing; empty if it would mean something."""
    telling = [line for line in lines if line.telling]
    out = []
    if not any(line.group == "memory" and line.key != "identical" for line in telling):
        out.append(
            "By its outputs on these rows the original itself cannot be told from a retrained model: what was to be forgotten "
            "hardly shows, or the rows are too few."
        )
    deep = [line for line in telling if SPECS[line.key].deep]
    needed = (
        2 if any(line.key == "class_probe" for line in lines) else 1
    )  # few lines see behind the outputs on single rows
    if len(deep) < needed:
        found = f"only one line ({deep[0].title}) tells" if deep else "no line tells"
        out.append(
            f"Behind the outputs (features, prototypes, relearning) {found} the original itself from a retrained model, and "
            f"{'two are' if needed == 2 else 'one is'} needed, because a class or row that is only hidden might not be found."
        )
    return out


def remaining(lines: Sequence[Evidence]) -> tuple[float, int] | None:
    """Return how much of what the original's features hold is left, as a share, and the number of lines it is the median of.

    A line tells (unlearned − retrained) / (original − retrained): 0 for a retrained model, 1 for the original, negative below
    retrained models. Only lines about features that have power count. None if there are none. The information difference index of
    arXiv 2405.17878 is such a share, of the information in the layers.
    """
    shares = [
        (line.unlearned - line.expected) / (line.original - line.expected)
        for line in lines
        if line.telling
        and line.group == "inside"
        and SPECS[line.key].deep
        and line.expected not in (None, line.original)
    ]
    return (float(median(shares)), len(shares)) if shares else None


def say_remaining(lines: Sequence[Evidence]) -> str:
    """Return `remaining` in a sentence; "" where it is not known."""
    found = remaining(lines)
    if found is None:
        return ""
    share, count = found
    left = f"{share:.0%}" if share > 0 else "nothing"
    rests = "the only line" if count == 1 else f"the median of {count} lines"
    return f"In its features {left} of the way from retrained models to the original is left ({rests} with power)."


def _power(lines: Sequence[Evidence]) -> str:
    """Return a sentence that names the lines by which the original is no retrained model."""
    about = [line for line in lines if line.difference is not None and line.group not in KEPT]
    telling = [line.title for line in about if line.telling]
    named = f": {'; '.join(telling)}" if telling else ""
    return (
        f"{len(telling)} of {len(about)} lines about what was to be forgotten {'has' if len(telling) == 1 else 'have'} power here"
        f"{named}. By the others the original itself could be a retrained model, so passing them says nothing."
    )


def describe(line: Evidence) -> str:
    """Return the result of one line in plain words."""
    spec = SPECS[line.key]
    if line.result == "unknown":
        return "without a retrained model there is nothing to compare it with"
    if line.side:
        return spec.above if line.side > 0 else spec.below
    if line.result == "unclear":
        return "too uncertain, or too near the margin, to say"
    if line.telling or line.group in KEPT:
        return "as retraining"
    return "as retraining, but with no power here: the original hardly differs from it"


def limits(retrained: int, lines: Sequence[Evidence], sets: Mapping[str, int], same_shares: bool) -> list[str]:
    """Return sentences that say what the audit cannot conclude.

    Args:
        retrained: number of retrained models.
        lines: all lines of evidence.
        sets: set -> number of rows.
        same_shares: True if forget and test rows have labels in the same shares.
    """
    out = []
    if not same_shares:
        out.append(
            "The labels of the forget rows have other shares than those of the test rows, so the forget set is no random "
            "draw. Attacks that compare the two sets may find this difference, and not which rows were trained on. Without a "
            "retrained model these lines are not judged. With one, the verdict on such rows is less well tested."
        )
    if retrained == 0:
        out.append(
            "There is no retrained model to compare with, so it cannot be concluded that this model behaves as if it had never seen the rows. "
            "A line is judged only if it is known what retraining gives: a retrained model never predicts a class that it was "
            "not taught, and it treats forgotten rows like unseen rows. No verdict can be *indistinguishable*."
        )
        out.append(
            "Relearning, features and distance to retraining are shown but not judged: there is nothing to compare them with."
        )
    elif retrained == 1:
        out.append(
            "One retrained model was given. It does not show how much retrained models differ between seeds, so a default is "
            "used that was measured on small classifiers. Models retrained with more seeds correct it."
        )
    if retrained:
        out += [_power(lines), *missing_power(lines)]
    if only_relearns_faster(lines):
        out.append(
            "The forgotten classes come back faster than in a retrained model, and features and prototypes are those of one. A model "
            "that never read the rows can do so too, if its last layer puts the classes less far down: it is no proof of hiding."
        )
    if "retain" not in sets:
        out.append(
            "No retain set was given: loss on the training rows that should be kept is judged on test rows alone."
        )
    out.append(
        "A verdict is about these rows, these attacks and these margins. It proves nothing about other attacks, and cannot "
        "exclude a trigger: a mark on an input, chosen by whoever made the model, that brings the forgotten back."
    )
    return out

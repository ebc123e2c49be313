"""The answers of an audit to the five questions, and its picture. Terminal, markdown and page show them first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..answers import (
    BAD,
    FORGOT,
    GOOD,
    KEPT,
    NEXT,
    NOTHING_CHANGED,
    REMAINS,
    STEP,
    SURE,
    UNSURE,
    Answer,
    Strip,
    told,
)
from .verdicts import (
    DAMAGED,
    HIDDEN,
    LESS,
    MORE,
    SAME,
    UNCHANGED,
    UNCLEAR,
    VOID,
    missing_power,
    say_remaining,
)
from .verdicts import KEPT as UTILITY

if TYPE_CHECKING:
    from .evidence import Evidence

FORGOTTEN = {  # verdict -> light and words for the first question
    SAME: (GOOD, "Yes"),
    LESS: (BAD, "No"),
    MORE: (UNSURE, "Too much"),
    HIDDEN: (BAD, "In its answers only"),
    DAMAGED: (UNSURE, "Not as retraining does"),
    UNCLEAR: (UNSURE, "Cannot tell"),
    UNCHANGED: (BAD, "No"),
    VOID: (UNSURE, "Cannot tell"),
}
STEPS = {  # verdict -> what to do next
    SAME: ("Publish it", "`hf-unlearn push` publishes the model with its card, its report and this audit."),
    LESS: (
        "Run it again",
        "Do not take this for a model that has forgotten. Try another method (`hf-unlearn methods`), or retrain.",
    ),
    MORE: (
        "Run it again",
        "Try fewer steps or a method that aims at what retraining gives (`hf-unlearn methods`), or retrain.",
    ),
    HIDDEN: ("Go deeper", "Use a method that changes the features (`hf-unlearn methods`), or retrain."),
    DAMAGED: ("Run it again", "Keep the original. Try fewer steps or another method, or retrain."),
    UNCLEAR: ("Measure more", "More test rows, and three retrained models or more, would tell more."),
    UNCHANGED: ("Run it again", "This is the original. Check that the right model was named."),
    VOID: (
        "Check the models",
        "One of them is not what it should be. What the audit does not prove, at the end, says which.",
    ),
}
ANSWERED = ("forget_accuracy", "test_forgotten_accuracy")
INSIDE = ("inside", "depth", "switch")


def answers(verdict: str, lines: Sequence[Evidence], because: Sequence[str], run: Mapping[str, Any]) -> list[Answer]:
    """Return the answers to the five questions, in their order."""
    light, short = FORGOTTEN[verdict]
    if verdict == LESS and because and all(line.group in UTILITY for line in lines if line.key in because):
        light, short = FORGOTTEN[DAMAGED]  # what is kept tells it from retrained models, and nothing else does
    if verdict == HIDDEN and any(line.key in ANSWERED and line.side > 0 for line in lines):
        light, short = BAD, "No"  # a patch that can be switched off, and whose answers still show what it is to hide
    return [
        Answer(FORGOT, short, _recognised(lines, verdict), light),
        _sure(verdict, lines, run),
        _remains(verdict, lines, because),
        _kept(lines, verdict),
        Answer(NEXT, *STEPS[verdict], STEP),
    ]


def _named(lines: Sequence[Evidence], key: str) -> Evidence | None:
    return next((line for line in lines if line.key == key), None)


def _never(line: Evidence) -> float | None:
    return fmean(line.retrained) if line.retrained else line.expected


def _who(line: Evidence) -> str:
    count = len(line.retrained)
    return "A model that never saw them" if count < 2 else f"{count} models that never saw them"


def _recognised(lines: Sequence[Evidence], verdict: str) -> str:
    line = _named(lines, "forget_accuracy") or _named(lines, "test_forgotten_accuracy")
    if line is None:
        return NOTHING_CHANGED if verdict == UNCHANGED else "What it answers on these rows was not measured."
    still = NOTHING_CHANGED if verdict == UNCHANGED else ""
    what = "of the rows to forget answered right"
    text = told(what, line.original, line.unlearned, _never(line), _who(line), still)
    if verdict == UNCLEAR:
        return f"{text} Too few examples, or too few retrained models, to say more."
    return text


def _sure(verdict: str, lines: Sequence[Evidence], run: Mapping[str, Any]) -> Answer:
    retrained = int(run.get("retrained") or 0)
    judged = [line for line in lines if line.difference is not None]
    passed = sum(line.result == "equivalent" for line in judged)
    against = f"{passed} of {len(judged)} lines of evidence are as in {retrained or 'no'} retrained model{'' if retrained == 1 else 's'}."
    if verdict == VOID:
        return Answer(SURE, "Not at all", "A model is not what it should be, so the figures prove nothing.", BAD)
    if verdict == UNCHANGED:
        return Answer(SURE, "Sure", "Every weight and every answer is the original's.", GOOD)
    if not retrained:
        return Answer(
            SURE, "Not very", "There is no retrained model to compare with, so only few lines can be judged.", UNSURE
        )
    if verdict == SAME:
        return Answer(SURE, "As sure as this gets", f"{against} The original itself would have been noticed.", GOOD)
    if verdict == UNCLEAR:
        return Answer(SURE, "Not sure", " ".join([against, *missing_power(lines)]), UNSURE)
    return Answer(SURE, "Sure" if retrained > 1 else "Fairly", against, GOOD if retrained > 1 else UNSURE)


def _remains(verdict: str, lines: Sequence[Evidence], because: Sequence[str]) -> Answer:
    if verdict == VOID:
        return Answer(REMAINS, "Not known", "The figures prove nothing, as a model is not what it should be.", UNSURE)
    inside = [line for line in lines if line.group in INSIDE and line.difference is not None]
    left = say_remaining(inside)
    if verdict == UNCHANGED:
        return Answer(REMAINS, "Everything", "Every answer is as before.", BAD)
    found = [line.words for line in lines if line.key in because and line.group not in UTILITY]
    if verdict in (HIDDEN, LESS, MORE) and found:
        short = {HIDDEN: "Hidden, not gone", LESS: "It is still there", MORE: "A trace of the removal"}[verdict]
        extra = "An attacker could notice that something was removed." if verdict == MORE else ""
        text = f"Found: {'; '.join(dict.fromkeys(found))}."
        return Answer(
            REMAINS, short, " ".join(part for part in (text, extra, left) if part), UNSURE if verdict == MORE else BAD
        )
    if not any(line.telling for line in inside):
        return Answer(
            REMAINS, "Not known", "No test that looks inside the model would have noticed the original.", UNSURE
        )
    different = [line.words for line in inside if line.result == "different"]
    if different:
        return Answer(REMAINS, "Something", f"Found: {'; '.join(dict.fromkeys(different))}. {left}".rstrip(), UNSURE)
    unclear = sum(line.result == "unclear" for line in inside)
    if unclear:
        return Answer(
            REMAINS,
            "Not clear",
            f"{unclear} of {len(inside)} tests inside the model are not clear. {left}".rstrip(),
            UNSURE,
        )
    return Answer(
        REMAINS,
        "Nothing was found",
        f"{len(inside)} tests inside the model are as after retraining. {left}".rstrip(),
        GOOD,
    )


def _kept(lines: Sequence[Evidence], verdict: str) -> Answer:
    line = _named(lines, "test_accuracy") or _named(lines, "retain_accuracy")
    if line is None:
        return Answer(KEPT, "Not known", "No rows to keep were given.", UNSURE)
    text = told(
        "of the rows to keep answered right",
        line.original,
        line.unlearned,
        _never(line),
        _who(line).replace("them", "the others"),
    )
    asked = [x for x in lines if x.group in UTILITY and x.difference is not None]
    worse = [x for x in asked if x.result == "different"]
    if any(x.side < 0 and x.unlearned < x.original for x in worse if x.group == "utility"):
        return Answer(KEPT, "Damaged", f"{text} Found: {'; '.join(dict.fromkeys(x.words for x in worse))}.", BAD)
    if worse:
        return Answer(KEPT, "Not as after retraining", f"{text} Found: {'; '.join(x.words for x in worse)}.", UNSURE)
    if not asked or any(x.result == "unclear" for x in asked):
        return Answer(KEPT, "Not clear", f"{text} Too few rows or retrained models to say more.", UNSURE)
    return (
        Answer(KEPT, "Not known", text, UNSURE) if verdict == VOID else Answer(KEPT, "All that was tested", text, GOOD)
    )


def strips(lines: Sequence[Evidence]) -> list[Strip]:
    """Return the lines of the picture that the audit has figures for: answers, inside, relearning, what was kept, attack."""
    return list(_strips(lines))


def _strips(lines: Sequence[Evidence]) -> Iterator[Strip]:
    if line := _named(lines, "forget_accuracy"):
        yield _share(line, "rows to forget, answered right")
    if line := _named(lines, "prototype") or _named(lines, "class_probe"):
        ten = "inside: brought back by ten examples" if line.key == "prototype" else "inside: told apart by a probe"
        yield _share(line, ten)
    if line := _named(lines, "relearning"):
        before, after, never = (
            None if v is None else math.expm1(v) for v in (line.original, line.unlearned, _never(line))
        )
        span = _span(line, math.expm1)
        most = max([1.0, *(v for v in (before, after, never) if v is not None), *(span or ())])
        yield Strip("steps until it is back", (0.0, most), before, after, never, unit="", span=span)
    if line := _named(lines, "test_accuracy") or _named(lines, "retain_accuracy"):
        yield _share(line, "other rows, answered right")
    if line := _named(lines, "membership") or _named(lines, "class_membership"):
        yield _share(line, "attack: right guesses who was in")


def _share(line: Evidence, title: str) -> Strip:
    before, after, never = (None if v is None else 100 * v for v in (line.original, line.unlearned, _never(line)))
    return Strip(title, (0.0, 100.0), before, after, never, span=_span(line, lambda v: 100 * v))


def _span(line: Evidence, scaled: Any) -> tuple[float, float] | None:
    return (scaled(min(line.retrained)), scaled(max(line.retrained))) if len(line.retrained) > 1 else None

"""Show an audit as one self-contained HTML page: the verdict, the answers, every line with its margin, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pages import COLORS, rendered
from .verdicts import KEPT, MEANING, SAME, missing_power, say_remaining

if TYPE_CHECKING:
    from .evidence import Evidence

QUESTIONS = {  # question -> groups of the lines that answer it
    "Do the outputs still know what was to be forgotten?": ("memory",),
    "Do the forget rows stand out?": ("shape", "over"),
    "Can it be brought back from behind the outputs?": ("inside", "depth", "switch"),
    "Is what was to be kept still there?": KEPT,
}
WIDTH, HEIGHT = 160, 22  # pixels of the picture of a margin
REACH = 3.0  # margins on either side that it shows
PLOT = (560, 180)  # pixels of the picture of relearning
# Dashes and width of the curves; the pictures carry them themselves, because not all that prints pages reads styles in them.
CURVES = {"original": ("none", 4), "unlearned": ("none", 2), "retrained": ("6 3", 2)}


@dataclass(frozen=True)
class Strip:
    """Where the figures of one line lie, in pixels from the left of a picture in which the margin is in the middle.

    Attributes:
        low, high: ends of the margin.
        start, end: ends of the interval of the judged model.
        ours, original: the judged model and the original, at the edge if they lie beyond it.
        retrained: each retrained model.
    """

    low: float
    high: float
    start: float
    end: float
    ours: float
    original: float
    retrained: tuple[float, ...]


def to_html(
    lines: Sequence[Evidence],
    cells: Sequence[Sequence[str]],
    on_top: Mapping[str, Any],
    *,
    verdict: str,
    because: Sequence[str],
    limits: Sequence[str],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    run: Mapping[str, Any],
    schema: str,
) -> str:
    """Return one HTML page that loads nothing: styles and pictures are inside, and there are no scripts.

    Args:
        lines: the lines of evidence.
        cells: what a table says of each line, see `Audit.rows`.
        on_top: the answers and the picture, see `evaluation.answers.page_values`.
        verdict, because, limits, curves, run, schema: as in `Audit`.
    """
    return rendered(
        "audit.html",
        **on_top,
        **_verdict(lines, verdict, because),
        groups=_answers([line for line in lines if line.difference is not None]),
        rows=[(texts, line.result, strip(line)) for texts, line in zip(cells, lines, strict=True)],
        width=WIDTH,
        height=HEIGHT,
        plot=PLOT,
        curves=_curves(curves),
        limits=limits,
        settings=_settings(run),
        schema=schema,
    )


def summary(lines: Sequence[Evidence], on_top: Mapping[str, Any], *, verdict: str, because: Sequence[str]) -> str:
    """Return verdict, answers and picture as a part of a page, which needs the styles of `answers.css`."""
    return rendered("audit_summary.html", **on_top, **_verdict(lines, verdict, because))


def _verdict(lines: Sequence[Evidence], verdict: str, because: Sequence[str]) -> dict[str, Any]:
    titles, accepted = {line.key: line.title for line in lines}, verdict == SAME
    return {
        "verdict": verdict,
        "meaning": MEANING[verdict],
        "accepted": accepted,
        "because": [] if accepted else [titles[key] for key in because if key in titles],
        "colors": COLORS,
    }


def _answers(lines: Sequence[Evidence]) -> list[tuple[str, str, str]]:
    """Return each question, its answer, and how many lines it rests on."""
    out = []
    for question, groups in QUESTIONS.items():
        asked = [line for line in lines if line.group in groups]
        passed = sum(line.result == "equivalent" for line in asked)
        answer = _answer(asked, groups)
        if "inside" in groups and (left := say_remaining(asked)):
            answer = f"{answer} {left}"
        out.append((question, answer, f"{passed} of {len(asked)} lines as retraining"))
    telling = sum(line.telling for line in lines)
    if not any(line.retrained for line in lines):
        answer = "Not known: there is no retrained model to compare it with."
    else:
        answer = " ".join(["Not surely.", *lacking]) if (lacking := missing_power(lines)) else "Yes."
    return [*out, ("Would this audit have noticed the original?", answer, f"{telling} lines tell it")]


def _answer(asked: Sequence[Evidence], groups: Sequence[str]) -> str:
    """Return the answer to a question in words."""
    different = [line for line in asked if line.result == "different"]
    unclear = [line for line in asked if line.result == "unclear"]
    if not asked:
        return "Not asked: these sets and models have nothing to compare."
    if different:
        return f"Not as after retraining: {'; '.join(dict.fromkeys(line.words for line in different))}."
    if unclear:
        return f"Not clear: {'; '.join(line.title for line in unclear)}."
    if groups != KEPT and not any(line.telling for line in asked):
        return "As after retraining, but so is the original: this says nothing."
    return "As after retraining."


def strip(line: Evidence) -> Strip | None:
    """Return the picture of a line; None without a margin to draw it in."""
    if line.difference is None or line.expected is None or line.low is None or line.high is None or line.margin <= 0:
        return None
    expected, margin = line.expected, line.margin

    def place(difference: float) -> float:
        share = float(np.clip(difference / margin, -REACH, REACH)) / (2 * REACH) + 0.5
        return round(4 + share * (WIDTH - 8), 1)

    return Strip(
        place(-margin), place(margin), place(line.low), place(line.high), place(line.difference),
        place(line.original - expected), tuple(place(value - expected) for value in line.retrained),
    )  # fmt: skip


def _curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[str, str, int, str, list[str]]]:
    """Return color, dashes, width, name and points of each curve, in a picture of the size `PLOT`."""
    most = max((step for curve in curves.values() for step, _ in curve), default=0)
    width, height = PLOT
    out = []
    for name, curve in curves.items():
        points = [f"{40 + (width - 50) * s / max(most, 1):.1f},{10 + (height - 40) * (1 - a):.1f}" for s, a in curve]
        steps = f"{name}: {curve[-1][1]:.0%} after {curve[-1][0]} steps" if curve else name
        kind = name.split("[")[0]
        out.append((COLORS[kind], *CURVES[kind], steps, points))
    return out


def _settings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was measured, as names and values."""
    out = []
    for name, value in run.items():
        if isinstance(value, dict):
            out += [(f"{name}: {key}", str(entry)) for key, entry in value.items()]
        else:
            out.append((name.replace("_", " "), str(value)))
    return out

"""Five questions that everybody asks of an unlearned model, their answers in one line each, and one picture below them.

A report and an audit answer the same questions and are shown in the same way: in the terminal, as markdown and as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils.safe_text import inert, plain

if TYPE_CHECKING:
    from rich.console import Console

FORGOT, SURE, REMAINS, KEPT, NEXT = QUESTIONS = (
    "Did it forget?",
    "How sure is that?",
    "What remains?",
    "What was kept?",
    "What next?",
)
GOOD, UNSURE, BAD, STEP = "good", "unsure", "bad", "step"
SIGNS = {GOOD: "●", UNSURE: "◐", BAD: "○", STEP: "→"}  # told apart without their color
TERMINAL = {GOOD: "green", UNSURE: "yellow", BAD: "red", STEP: "cyan"}
HEADS = ("before", "after", "never saw them")
NOTHING_CHANGED = "Nothing changed."
NEVER = "A model that never saw them"

COMMAND = re.compile(r"[a-z_ -][\w -]*", re.ASCII)  # words that are harmless as code, whoever wrote them
WIDTH, HEIGHT, EDGE = 200, 26, 8  # pixels of the picture of a strip
CELLS = 21  # characters of a strip in a terminal


@dataclass(frozen=True)
class Answer:
    """The answer to one of `QUESTIONS`.

    Attributes:
        question: the question.
        short: the answer in one to four words.
        text: what it rests on, in short sentences.
        light: `good`, `unsure` or `bad`; `step` for what to do next, which is neither.
    """

    question: str
    short: str
    text: str
    light: str

    @property
    def sign(self) -> str:
        """A sign for the light, which is read without its color."""
        return SIGNS[self.light]


def commands(text: str) -> str:
    """Return a text as markdown in which nothing but the words between backticks is markup: they are commands."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a second one
        return inert(text)
    return "".join(f"`{part}`" if i % 2 and COMMAND.fullmatch(part) else _between(part) for i, part in enumerate(parts))


def _between(part: str) -> str:
    """Return a part of a text as `inert` text that keeps the blanks at its ends."""
    before, after = " " * part.startswith(" "), " " * part.rstrip("\n").endswith(" ")
    return f"{before}{inert(part)}{after}" if part.strip() else part


@dataclass(frozen=True)
class Strip:
    """One line of the picture: where the model lies before, after, and where one lies that never saw the rows.

    Attributes:
        title: what is measured.
        scale: the values at the two ends of the strip.
        before, after, never: values; None if they were not measured.
        unit: what stands behind a value, such as " %".
        span: lowest and highest value of several retrained models, None for one or none.
        texts: words in place of the values, for those that no number tells: `before`, `after`, `never` -> text.
    """

    title: str
    scale: tuple[float, float]
    before: float | None
    after: float | None
    never: float | None
    unit: str = " %"
    span: tuple[float, float] | None = None
    texts: tuple[tuple[str, str], ...] = ()

    def cells(self) -> list[str]:
        """Return before, after and never saw them as text."""
        said = dict(self.texts)
        return [said.get(n, number(getattr(self, n), self.unit)) for n in ("before", "after", "never")]

    def share(self, value: float) -> float:
        """Return the place of a value on the strip, in [0, 1]."""
        low, high = self.scale
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def place(self, value: float) -> float:
        """Return the place of a value in pixels from the left of the picture."""
        return round(EDGE + self.share(value) * (WIDTH - 2 * EDGE), 1)

    def line(self) -> str:
        """Return the strip for a terminal: o before, * after, | never saw them. A later one covers an earlier one."""
        signs = ["─"] * CELLS
        for value, sign in ((self.never, "|"), (self.before, "o"), (self.after, "*")):
            if value is not None:
                signs[round(self.share(value) * (CELLS - 1))] = sign
        return "".join(signs)


def number(value: float | None, unit: str = " %") -> str:
    """Return a value with at most one decimal, and none where it is zero."""
    return "–" if value is None else f"{value:.1f}".removesuffix(".0") + unit


def told(
    what: str, before: float | None, after: float | None, never: float | None, who: str = NEVER, between: str = ""
) -> str:
    """Return in a sentence each what a model did before and after, and one that never saw the rows. Values are shares.

    Args:
        what: what a share is of, behind the first one.
        before, after, never: the shares; None if one was not measured.
        who: what never saw the rows.
        between: a sentence after that on what the model does now.
    """
    values = [None if v is None else 100 * v for v in (before, after, never)]
    words = []
    if values[0] is not None:
        words.append(f"Before: {number(values[0])} {what}.")
    if values[1] is not None:
        words.append(f"After: {number(values[1])}.")
    if between:
        words.append(between)
    if values[2] is not None:
        words.append(f"{who}: {number(values[2])}.")
    return " ".join(words)


def markdown(answers: Sequence[Answer], strips: Sequence[Strip]) -> Iterator[str]:
    """Yield the answers and the figures of the picture as lines of markdown."""
    for answer in answers:
        yield f"- **{answer.question}** {answer.sign} **{inert(answer.short)}.** {commands(answer.text)}".rstrip()
    if strips:
        yield from ("", f"| | {' | '.join(HEADS)} |", "|---|---:|---:|---:|")
        yield from (f"| {inert(strip.title)} | {' | '.join(strip.cells())} |" for strip in strips)
    yield ""


def show(console: Console, answers: Sequence[Answer], strips: Sequence[Strip]) -> None:
    """Print the answers and the picture to a terminal."""
    from rich.markup import escape
    from rich.table import Table

    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for answer in answers:
        color = TERMINAL[answer.light]
        said = f"[bold {color}]{answer.sign} {escape(plain(answer.short))}.[/] {escape(plain(answer.text))}"
        lines.add_row(f"[bold]{answer.question}[/bold]", said)
    console.print(lines)
    if not strips:
        return
    picture = Table(box=None, padding=(0, 2, 0, 0))
    picture.add_column("")
    picture.add_column("o before  * after  | never", no_wrap=True)
    for head in HEADS:
        picture.add_column(head, justify="right")
    for strip in strips:
        picture.add_row(escape(plain(strip.title)), strip.line(), *map(escape, strip.cells()))
    console.print(picture)


def page_values(answers: Sequence[Answer], strips: Sequence[Strip]) -> dict[str, Any]:
    """Return what the template `answers.html` reads."""
    return {"answers": answers, "strips": strips, "heads": HEADS, "strip_size": (WIDTH, HEIGHT)}

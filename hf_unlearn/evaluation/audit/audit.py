"""`Audit`: the verdict on a model, with its evidence line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.files import write_atomically
from .. import answers as shape
from ..pages import standalone
from .answers import answers, strips
from .evidence import Evidence
from .page import summary, to_html
from .per_example import PerExample
from .verdicts import MEANING, SAME, say_remaining

AUDIT_SCHEMA = "hf_unlearn/audit/1"
COLUMNS = ("", "original", "unlearned", "retrained", "difference [interval]", "margin: practical, seeds", "", "")


@dataclass
class Audit:
    """The verdict on a model and all its evidence. `Auditor.audit` and `audit_models` return one.

    Attributes:
        verdict: one of the verdicts of `hf_unlearn.evaluation.audit.verdicts.MEANING`.
        because: keys of the lines that the verdict rests on.
        lines: all lines of evidence.
        limits: sentences that say what the audit cannot conclude.
        curves: model -> (steps, accuracy in [0, 1]) while the forgotten classes are taught again; empty if no test row is of
            a forgotten class.
        run: kind of the request, rows of each set, number of retrained models, alpha, digest of the judged weights, and `distance`: how
            far these lie from the original's, as a share of how far retrained models lie.
        schema: version of the JSON format.
        per_example: scores of single forget rows, if they were asked for. `as_dict` leaves them out, because they tell of rows.
    """

    verdict: str
    because: list[str]
    lines: list[Evidence]
    limits: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    schema: str = AUDIT_SCHEMA
    per_example: PerExample | None = None

    @property
    def accepted(self) -> bool:
        """True if the model is indistinguishable from retraining."""
        return self.verdict == SAME

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as plain values that JSON can hold."""
        return {name: value for name, value in asdict(self).items() if name != "per_example"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Audit:
        """Return the audit that `as_dict` gave as `data`.

        Raises:
            ValueError: `data` has another schema.
        """
        if data.get("schema") != AUDIT_SCHEMA:
            raise ValueError(f"`schema` is {data.get('schema')!r}, this version reads {AUDIT_SCHEMA!r}.")
        return cls(**{**data, "lines": [Evidence(**line) for line in data["lines"]]})

    def answers(self) -> list[shape.Answer]:
        """Return the answers to the five questions of `hf_unlearn.evaluation.answers`."""
        return answers(self.verdict, self.lines, self.because, self.run)

    def rows(self) -> list[list[str]]:
        """Return the evidence as cells, one list per line, under the heads `COLUMNS`; the last two are result and words."""
        out = []
        for x in self.lines:
            retrained = _number(float(np.mean(x.retrained)) if x.retrained else x.expected)
            gap = "–" if x.difference is None else f"{x.difference:+.3f} [{x.low:+.3f}, {x.high:+.3f}]"
            margin = "–" if x.difference is None else f"±{x.practical:.3f} ±{x.spread:.3f}"
            out.append([x.title, _number(x.original), _number(x.unlearned), retrained, gap, margin, x.result, x.words])
        return out

    def to_markdown(self) -> str:
        """Return the audit as markdown."""
        lines = ["# Audit", "", f"**{self.verdict}.** {MEANING[self.verdict]}", ""]
        lines += shape.markdown(self.answers(), strips(self.lines))
        lines += [left, ""] if (left := say_remaining(self.lines)) else []
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---:|---:|---:|---|---|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.rows()]
        return "\n".join([*lines, "", *(f"- {sentence}" for sentence in self.limits), ""])

    def to_html(self) -> str:
        """Return the audit as one HTML page that loads nothing."""
        told = ("verdict", "because", "limits", "curves", "run", "schema")
        on_top = shape.page_values(self.answers(), strips(self.lines))
        return to_html(self.lines, self.rows(), on_top, **{name: getattr(self, name) for name in told})

    def summary(self) -> str:
        """Return verdict, answers and picture as a part of a page of HTML; `evaluation.pages.answers_css` returns its styles."""
        on_top = shape.page_values(self.answers(), strips(self.lines))
        return summary(self.lines, on_top, verdict=self.verdict, because=self.because)

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return standalone(self.summary())

    def print(self) -> None:
        """Print the audit to the terminal."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title_justify="left")
        for i, name in enumerate(COLUMNS):
            short = re.split(r" \[|:", name)[0]  # a terminal is narrow
            table.add_column(short, justify="right" if 0 < i < 6 else "left")
        for cells in self.rows():
            table.add_row(*cells)
        console = Console(width=None if Console().is_terminal else 220, highlight=False)
        console.print()
        shape.show(console, self.answers(), strips(self.lines))
        console.print()
        console.print(table)
        for sentence in self.limits:
            console.print(f"- {sentence}")
        if left := say_remaining(self.lines):
            console.print(f"- {left}")
        console.print(f"\n[bold]{self.verdict}[/bold]: {MEANING[self.verdict]}")

    def save(self, folder: str | Path) -> None:
        """Write `audit.json`, `audit.md` and `audit.html` into `folder`, which is made if it is missing.

        With `per_example` also `per_example.csv`, which only its owner can read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "audit.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "audit.md", self.to_markdown())
        write_atomically(folder / "audit.html", self.to_html())
        if self.per_example is not None:
            write_atomically(folder / "per_example.csv", self.per_example.to_csv(), mode=0o600)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

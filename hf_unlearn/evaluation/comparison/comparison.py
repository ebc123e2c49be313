"""`Comparison`: methods beside each other and beside retraining, as tables, ranks and a page."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from ...utils import VERSION
from ...utils.files import write_atomically
from ..audit.verdicts import SPECS
from .cells import Cell
from .page import Row, to_html
from .statistics import Ranking, interval, ranking

SCHEMA = "hf_unlearn/comparison/1"
DEPTH = (
    "prototype",
    "inner_prototype",
    "single_row",
    "inner_single_row",
    "relearning",
    "class_probe",
    "features",
    "membership_probe",
)
"""Lines of the audit that see behind the outputs, in the order of the table."""
NONE = "–"
LIMITS = (
    "A gap is a distance to retraining, in either direction: a model that forgets more than a retrained one is as far from it as one "
    "that forgets less.",
    "The audit's verdict is about these rows, these attacks and these margins.",
    "Seconds are those of one machine, and only their ratio within this comparison means something. A yardstick that came from the "
    "cache was timed when it was trained.",
)


@dataclass(frozen=True)
class Column:
    """A column of the summary: its head, the value of a cell in the unit of the head, and its form."""

    head: str
    value: Callable[[Cell], float | None]
    form: str = "{:.1f}"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


DISTANCE = Column("distance from the original, %", lambda c: _percent(c.distance), "{:.0f}")


def columns(kind: str) -> list[Column]:
    """Return the columns for requests of a `kind`; the first is what methods are ranked by."""
    gap = Column("Avg. Gap", lambda c: 100 * c.gap())
    own = [
        Column("forgotten − retrained", lambda c: _percent(c.apart("forgotten"))),
        Column("kept − retrained", lambda c: _percent(c.apart("test"))),
    ] if kind == "class" else [
        Column("forget − retrained", lambda c: _percent(c.apart("forget"))),
        Column("test − retrained", lambda c: _percent(c.apart("test"))),
        Column("AUC − retrained", lambda c: _percent(c.apart("auc"))),
        Column("LiRA, AUC", lambda c: _percent(c.figures["unlearned"].get("lira"))),
    ]  # fmt: skip
    return [
        gap,
        *own,
        Column("divergence, of retrained", Cell.ratio),
        Column("left in features, %", lambda c: _percent(c.left), "{:.0f}"),
        Column("ToW", Cell.tug_of_war, "{:.3f}"),
        Column("passes, %", lambda c: _percent(c.share("passes")), "{:.0f}"),
        Column("time, %", lambda c: _percent(c.share("seconds")), "{:.0f}"),
    ]


@dataclass
class Comparison:
    """The cells of a comparison, and what they say.

    Attributes:
        cells: all cells, in the order in which they were asked for.
        run: what was compared: original, data, number of retrained models, seeds, versions.
    """

    cells: list[Cell]
    run: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(cell.scenario for cell in self.cells))

    @cached_property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def of(self, scenario: str, method: str | None = None) -> list[Cell]:
        """Return the cells of a request, of one method if it is named."""
        return [c for c in self.cells if c.scenario == scenario and method in (None, c.method)]

    def kind(self, scenario: str) -> str:
        """Return `class` or `samples`; `samples` if no cell has a result."""
        return next((c.kind for c in self.of(scenario) if c.kind), "samples")

    def heads(self, scenario: str) -> list[str]:
        """Return the heads of the summary of a request."""
        return ["method", "runs", "audit", "exit 0", *(column.head for column in columns(self.kind(scenario)))]

    def rows(self, scenario: str) -> list[Row]:
        """Return a row for each method, those nearest to retraining first, and then a retrained model and the original."""
        found = [self._row(scenario, method) for method in self.methods if self.of(scenario, method)]
        found.sort(key=lambda row: math.inf if row.gap is None else row.gap)
        done = [c for c in self.of(scenario) if not c.error]
        return [*found, *(self._anchors(done[0]) if done and len(done[0].retrained) > 1 else [])]

    def _row(self, scenario: str, method: str) -> Row:
        cells = self.of(scenario, method)
        done = [c for c in cells if not c.error]
        shown = [NONE if not done else _mean(column, done) for column in columns(self.kind(scenario))]
        verdicts = Counter("failed" if c.error else c.verdict for c in cells)
        told = ", ".join(f"{n} {verdict}" if n > 1 else verdict for verdict, n in verdicts.most_common())
        good = f"{sum(c.exit_code == 0 for c in done)} of {len(cells)}"
        costs = [c.share("passes") for c in done]
        known = [cost for cost in costs if cost is not None]
        return Row(
            method,
            [method, str(len(cells)), told, good, *shown],
            100 * fmean(c.gap() for c in done) if done else None,
            100 * fmean(known) if known else None,
        )

    def _anchors(self, cell: Cell) -> list[Row]:
        """Return the original in the place of an unlearned model, and each retrained model against the others, with their mean."""
        bare = replace(cell, left=None, cost={})  # columns that only a method's run has
        original = replace(
            bare,
            figures={"unlearned": cell.figures["original"]},
            divergence={**cell.divergence, "unlearned": cell.divergence["original"]},
        )
        retrained = [
            replace(
                bare,
                figures={"unlearned": one},
                retrained=[r for r in cell.retrained if r is not one],
                divergence={"among": []},
            )
            for one in cell.retrained
        ]
        return [
            Row(name, [name, "", "", "", *(_mean(column, cells) for column in columns(cell.kind))], None, None)
            for name, cells in (("a retrained model", retrained), ("the original itself", [original]))
        ]

    def depth(self, scenario: str) -> tuple[list[str], list[list[str]]]:
        """Return heads and rows of what is found behind the outputs: the difference from retraining, in margins of the audit.

        A line without power, by which the original itself could be a retrained model, stands in brackets. The last column is how far
        the weights lie from the original's, as a share of how far retrained models lie: no line of the audit, and no proof.
        """
        keys = [k for k in DEPTH if any(k in c.lines for c in self.of(scenario))]
        rows = []
        for method in self.methods:
            done = [c for c in self.of(scenario, method) if not c.error]
            if done:
                rows.append([method, *(_in_margins(done, key) for key in keys), _mean(DISTANCE, done)])
        return ["method", *(SPECS[key].title for key in keys), DISTANCE.head], rows

    @cached_property
    def ranks(self) -> Ranking | None:
        """Ranks by Avg. Gap of the methods that were run on every request, over requests and seeds for which all of them have a
        result; None if there are none."""
        scores: dict[str, list[float]] = {
            method: [] for method in self.methods if all(self.of(scenario, method) for scenario in self.scenarios)
        }
        for scenario, seed in dict.fromkeys((c.scenario, c.seed) for c in self.cells):
            here = {c.method: c.gap() for c in self.of(scenario) if c.seed == seed and not c.error}
            if scores.keys() <= here.keys():
                for method, found in scores.items():
                    found.append(here[method])
        return ranking(scores) if any(scores.values()) else None

    def say_ranks(self) -> str:
        """Return the ranks in a sentence; "" if there are none."""
        if self.ranks is None:
            return ""
        named = "; ".join(f"{method} {rank:.1f}" for method, rank in self.ranks.ranks.items())
        blocks = "one request and seed" if self.ranks.blocks == 1 else f"{self.ranks.blocks} requests and seeds"
        out = f"Mean rank by Avg. Gap over {blocks}, 1 is nearest to retraining: {named}."
        if not math.isnan(self.ranks.difference):
            out += (
                f" Ranks that differ by less than {self.ranks.difference:.1f} are not told apart (Nemenyi's test at 5 %; all methods alike "
                f"has p = {self.ranks.p_value:.2g} by Friedman's)."
            )
        return out

    def limits(self) -> list[str]:
        """Return sentences that say what the comparison does not prove."""
        if trials := self.run.get("trials"):
            how = (
                f"The settings of every method were found with {trials} trials of {self.run['passes']} passes over the retain set, on another "
                "request. More trials could find better ones."
            )
        else:
            how = "Defaults are compared. A method that was tuned for these data could do better."
        return [f"{how} A figure holds for these models, rows and seeds.", *LIMITS]

    def failures(self) -> list[tuple[str, str, int, str]]:
        """Return scenario, method, seed and reason of each cell without a result."""
        return [(c.scenario, c.method, c.seed, c.error) for c in self.cells if c.error]

    def settings(self) -> list[tuple[str, str]]:
        """Return for each method the settings that its cells resolved to."""
        found: dict[str, dict[str, None]] = {method: {} for method in self.methods}
        for cell in self.cells:
            if cell.settings:
                told = ", ".join(f"{k}={v}" for k, v in cell.settings.items() if v is not None)
                found[cell.method][told] = None
        return [(method, "; or ".join(told)) for method, told in found.items() if told]

    def to_markdown(self) -> str:
        """Return all tables as markdown."""
        return "\n".join([*self._markdown(), ""])

    def _markdown(self) -> Iterator[str]:
        yield from ("# Unlearning methods compared with retraining", "")
        for scenario in self.scenarios:
            yield from (f"## {scenario}", "")
            yield from _table(self.heads(scenario), [row.cells for row in self.rows(scenario)])
            heads, rows = self.depth(scenario)
            if len(heads) > 1:
                yield from (
                    "",
                    "Behind the outputs, in margins of the audit from retraining (in brackets: lines without power):",
                    "",
                )
                yield from _table(heads, rows)
            yield ""
        if ranks := self.say_ranks():
            yield from (ranks, "")
        if failures := self.failures():
            yield from ("## Without a result", "")
            yield from (f"- {scenario}, {method}, seed {seed}: {error}" for scenario, method, seed, error in failures)
            yield ""
        yield from ("## Settings", "")
        yield from (f"- `{method}`: {told}" for method, told in self.settings())
        yield ""
        yield from (f"- {limit}" for limit in self.limits())

    def to_latex(self) -> str:
        """Return one `tabular` for each request, for a paper. It needs the package `booktabs`."""
        lines = []
        for scenario in self.scenarios:
            heads = self.heads(scenario)
            lines += [f"% {_latex(scenario)}", f"\\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}", "\\toprule"]
            lines += [" & ".join(map(_latex, heads)) + r" \\", "\\midrule"]
            lines += [" & ".join(map(_latex, row.cells)) + r" \\" for row in self.rows(scenario)]
            lines += ["\\bottomrule", "\\end{tabular}", ""]
        return "\n".join(lines)

    def to_html(self) -> str:
        """Return one HTML page that loads nothing, with a picture of gap against cost for each request."""
        parts = [
            (scenario, self.heads(scenario), self.rows(scenario), *self.depth(scenario)) for scenario in self.scenarios
        ]
        return to_html(
            parts,
            ranks=self.say_ranks(),
            failures=self.failures(),
            settings=[*((str(k), str(v)) for k, v in self.run.items()), *self.settings()],
            limits=self.limits(),
            schema=SCHEMA,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return {"schema": SCHEMA, "version": VERSION, "run": self.run, "cells": [asdict(c) for c in self.cells]}

    def save(self, folder: Path) -> None:
        """Write `comparison.json`, `.md`, `.tex` and `.html` into `folder`."""
        write_atomically(folder / "comparison.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "comparison.md", self.to_markdown())
        write_atomically(folder / "comparison.tex", self.to_latex())
        write_atomically(folder / "comparison.html", self.to_html())


def _mean(column: Column, cells: Sequence[Cell]) -> str:
    """Return the mean over seeds with half the width of its 95 % interval."""
    known = [value for cell in cells if (value := column.value(cell)) is not None]
    if not known:
        return NONE
    mean, half = interval(known)
    return column.form.format(mean) + ("" if math.isnan(half) else f" ± {column.form.format(half)}")


def _in_margins(cells: Sequence[Cell], key: str) -> str:
    lines = [c.lines[key] for c in cells if key in c.lines and c.lines[key]["margin"]]
    if not lines:
        return NONE
    mean = fmean((line["unlearned"] - line["expected"]) / line["margin"] for line in lines)
    return f"{mean:+.1f}" if all(line["telling"] for line in lines) else f"({mean:+.1f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _latex(text: str) -> str:
    for sign in "&%$#_":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", "$\\pm$").replace("−", "$-$").replace("–", "--")

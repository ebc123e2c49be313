"""The cells of a comparison: what was measured of one method on one request with one seed, in a file that survives a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from ...metrics.functional.distance import average_gap, tug_of_war

GAP = ("forget", "retain", "test", "membership")
"""Measures of `Cell.gap`: accuracies, and the attack that SalUn's Avg. Gap has (arXiv 2310.12508)."""
LEAST = 1e-6  # nats: divergence among retrained models


@dataclass(frozen=True)
class Cell:
    """One run of a comparison, measured, or the reason why it failed.

    Attributes:
        scenario: name of the request.
        method: name of the method as the comparison calls it.
        seed: seed of the unlearning.
        digest: digest of all settings that the cell depends on.
        kind: `class` or `samples`.
        error: why there is no result; "" if there is one.
        settings: method and hyper-parameters, with every default filled in.
        exit_code: that of `hf-unlearn run`: 0 if the method reached its own target and kept.
        stopped, steps, warnings: as in `Outcome`.
        handed_back: True if the model answers every row as the original does.
        verdict, because: of the audit, see `Audit`.
        figures: model -> measure -> value, for `original` and `unlearned`; see `comparison.figures.figures`.
        retrained: the same measures of each retrained model.
        divergence: Jensen–Shannon divergence on forget rows in nats: of the original and of the unlearned model from the retrained
            ones, and among these.
        lines: key of a line of the audit -> figure of the unlearned model, what retraining gives, margin, result and power.
        left: share of what the original's features hold that is left, None if no line tells.
        distance: how far the weights lie from the original's, as a share of how far retrained models lie; None if not known.
        cost: `seconds` and `passes` of the run, and those of a retraining.
    """

    scenario: str
    method: str
    seed: int
    digest: str
    kind: str = ""
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    stopped: str = ""
    steps: int = 0
    warnings: list[str] = field(default_factory=list)
    handed_back: bool = False
    verdict: str = ""
    because: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    retrained: list[dict[str, float]] = field(default_factory=list)
    divergence: dict[str, list[float]] = field(default_factory=dict)
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    left: float | None = None
    distance: float | None = None
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What the cell is known by. A cell with other settings is another cell."""
        return self.scenario, self.method, self.seed, self.digest

    def band(self, measure: str) -> float:
        """The mean of a measure over the retrained models."""
        return fmean(model[measure] for model in self.retrained)

    def apart(self, measure: str, model: str = "unlearned") -> float | None:
        """The difference of a measure from the mean of the retrained models; None if it was not measured."""
        value = self.figures[model].get(measure)
        return None if value is None else value - self.band(measure)

    def gap(self, model: str = "unlearned") -> float:
        """Avg. Gap: the mean absolute difference of four measures from retraining, in [0, 1] (arXiv 2310.12508)."""
        return average_gap([self.figures[model][m] for m in GAP], [self.band(m) for m in GAP])

    def tug_of_war(self, model: str = "unlearned") -> float:
        """ToW over the accuracies on forget, retain and test rows, 1 at retraining (arXiv 2406.01257)."""
        names = ("forget", "retain", "test")
        return tug_of_war([self.figures[model][m] for m in names], [self.band(m) for m in names])

    def ratio(self, model: str = "unlearned") -> float | None:
        """The divergence from retrained models on forget rows, over that among these; None with a single one."""
        if not self.divergence["among"]:
            return None
        return fmean(self.divergence[model]) / max(LEAST, fmean(self.divergence["among"]))

    def share(self, name: str) -> float | None:
        """`seconds` or `passes` as a share of a retraining's; None if that is not known."""
        whole = self.cost.get(f"retraining_{name}")
        return self.cost[name] / whole if whole else None


def digest_of(*parts: Any) -> str:
    """Return 16 digits for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def append_line(file: Path, entry: Mapping[str, Any]) -> None:
    """Add a line of JSON, which is on the disk afterwards. Half a line, which a killed process left, is cut off first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.seek(0)
        lines.truncate(lines.read().rfind(b"\n") + 1)
        lines.write(json.dumps(entry).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of `file`; none if it is missing."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def append(file: Path, cell: Cell) -> None:
    """Add a cell as one line; see `append_line`."""
    append_line(file, asdict(cell))


def read(file: Path) -> dict[tuple[str, str, int, str], Cell]:
    """Return the cells in `file` by their identity; the last line of a cell counts. There are none if the file is missing."""
    known, found = {f.name for f in fields(Cell)}, {}
    for line in lines_of(file):
        cell = Cell(**{name: value for name, value in line.items() if name in known})
        found[cell.identity] = cell
    return found

"""`UnlearningReport`: original, unlearned and retrained model side by side, read both ways.

The yardstick is the retrained model. A forget accuracy below its own is over-forgetting, as telling as one above.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...utils.files import write_atomically
from .page import print_table, to_html, to_markdown
from .plots import save_figures
from .report_data import ReportData
from .table import rows

if TYPE_CHECKING:  # what is measured needs torch; what is read, and shown, does not
    from torch import nn

    from ...training.protocols import FinishedRun


class UnlearningReport(ReportData):
    """`ReportData` that can be measured, shown and saved."""

    @classmethod
    def measure(
        cls,
        trainer: FinishedRun,
        retain: Any | None,
        test: Any | None,
        retrained: nn.Module | None = None,
        **settings: Any,
    ) -> Self:
        """Measure the original, the unlearned model and, if given, the retrained one; see `measuring.fill`."""
        from .measuring import fill

        report = cls(models={})
        fill(report, trainer, retain, test, retrained, **settings)
        return report

    def rows(self) -> list[tuple[str, list[str]]]:
        """The table: title and one cell per model, as they are; escape them for where they go."""
        return rows(self)

    def to_markdown(self) -> str:
        """The report as markdown; names from the data are inert in it."""
        return to_markdown(self)

    def to_html(self, figures: bool = True) -> str:
        """The report as one self-contained page, its figures inside (with matplotlib)."""
        return to_html(self, figures)

    def print(self) -> None:
        """The table, in the terminal."""
        print_table(self)

    def save(self, folder: str | Path, figures: bool = True) -> None:
        """Write `report.json`, `report.md`, `report.html` and, with `figures`, `figures/*.png` into `folder`, each atomically.

        Raises:
            ImportError: `figures` without matplotlib.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "report.md", self.to_markdown())
        write_atomically(folder / "report.html", self.to_html(figures))
        if figures:
            save_figures(self, folder / "figures")

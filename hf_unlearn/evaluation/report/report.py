"""`UnlearningReport`: original, unlearned and retrained model side by side.

Every figure is compared with the retrained model. An accuracy on the forget set below that of the retrained model is
over-forgetting, and is as bad a sign as one above.
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

if TYPE_CHECKING:  # measuring needs torch, reading and showing a report does not
    from torch import nn

    from ...training.protocols import FinishedRun


class UnlearningReport(ReportData):
    """The figures of a run, which can be measured, shown and saved. `UnlearningTrainer.report` returns one.

    Its attributes are those of `ReportData`.
    """

    @classmethod
    def measure(
        cls,
        trainer: FinishedRun,
        retain: Any | None,
        test: Any | None,
        retrained: nn.Module | None = None,
        **settings: Any,
    ) -> Self:
        """Measure the original, the unlearned model and, if given, the retrained model.

        Args:
            trainer: a trainer after `train()`.
            retain, test: labeled data sets. Figures that need a set that is None are left out.
            retrained: a model trained without the forget set, to compare with. Default: None.
            settings: `retrained_seconds`, `relearning`, `pattern` and `max_rows`, as in `measuring.fill`.
        """
        from .measuring import fill

        report = cls(models={})
        fill(report, trainer, retain, test, retrained, **settings)
        return report

    def rows(self) -> list[tuple[str, list[str]]]:
        """Return the table: a title and one cell per model. Names from data are in it unescaped."""
        return rows(self)

    def to_markdown(self) -> str:
        """Return the report as markdown. Names from data are escaped."""
        return to_markdown(self)

    def to_html(self, figures: bool = True) -> str:
        """Return the report as one self-contained page, with its figures inside unless `figures` is False."""
        return to_html(self, figures)

    def print(self) -> None:
        """Print the table to the terminal."""
        print_table(self)

    def save(self, folder: str | Path, figures: bool = True) -> None:
        """Write `report.json`, `report.md`, `report.html` and `figures/*.png` into `folder`, each file atomically.

        Args:
            folder: where to write; it is made if it is missing.
            figures: draw figures, which needs matplotlib. Default: True.

        Raises:
            ImportError: `figures` is true and matplotlib is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", json.dumps(self.as_dict(), indent=2) + "\n")
        write_atomically(folder / "report.md", self.to_markdown())
        write_atomically(folder / "report.html", self.to_html(figures))
        if figures:
            save_figures(self, folder / "figures")

"""`UnlearningReport`: original, unlearned and retrained model side by side.

Every figure is compared with the retrained model. An accuracy on the forget set below that of the retrained model is
over-forgetting, and is as bad a sign as one above.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...utils.files import write_atomically
from . import page, table
from .findings import findings
from .plots import save_figures
from .report_data import ReportData

if TYPE_CHECKING:  # measuring needs torch, reading and showing a report does not
    from collections.abc import Iterable

    from torch import nn

    from ...training.protocols import FinishedRun
    from .bias_pattern import Pattern


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
        retrained: nn.Module | Iterable[nn.Module] | None = None,
        *,
        retrained_seconds: float | None = None,
        relearning: bool = False,
        pattern: Pattern | None = None,
        max_rows: int = 10_000,
    ) -> Self:
        """Measure the original, the unlearned model and, if given, the retrained model or models.

        Args:
            trainer: a trainer after `train()`.
            retain, test: labeled data sets. Figures that need a set that is None are left out.
            retrained: a model trained without the forget set, to compare with, or several that were trained with different
                seeds. Several are measured one after another, so an iterator can load each when its turn comes. Default: None.
            retrained_seconds: seconds that the training of `retrained` took, the mean of several. Default: None.
            relearning: also count the steps until a forgotten class is relearned, if classes were forgotten and there is a
                test set. Default: False.
            pattern: a column of `test` and the labels that its values point to, from `read_pattern`; also measure how far
                each model follows them. Default: None.
            max_rows: most rows of each set that are measured. Default: 10,000.
        """
        from .measuring import fill

        report = cls(models={})
        fill(report, trainer, retain, test, retrained, retrained_seconds, relearning, pattern, max_rows)
        return report

    @property
    def warnings(self) -> list[str]:
        """What went wrong in the run, what is still there, and which figures are a bad sign: the worst first."""
        return [finding.text for finding in findings(self)]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that JSON can hold."""
        found = asdict(self)
        if not self.retrained:
            del found["retrained"]
        return {**found, "warnings": self.warnings}

    rows = table.rows
    to_markdown = page.to_markdown
    to_html = page.to_html
    print = page.print_table
    _repr_html_ = page.to_notebook  # what a notebook shows of a report

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

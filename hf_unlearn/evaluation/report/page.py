"""Show a report as markdown, as one self-contained HTML page, and in the terminal. Names from data become no markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...utils.safe_text import inert, plain, shown
from .. import answers as shape
from ..pages import COLORS, rendered, standalone
from .answers import answers
from .findings import FAILED, Severity, failed, findings
from .interpretation import limits, notes, reading, request_of
from .plots import svg_figures
from .report_data import ReportData
from .strips import strips
from .table import Row, rows


def to_markdown(report: ReportData) -> str:
    """Return the report as markdown."""
    found = findings(report)
    lines = ["# Unlearning report", ""]
    if request_of(report.run):
        lines += [f"Asked to forget: {inert(request_of(report.run))}.", ""]
    lines += shape.markdown(answers(report), strips(report))
    lines += [inert(_done(report)), ""]
    lines += ["**{}** {}".format(*FAILED), ""] if failed(found) else []
    lines += [*(f"- **Warning:** {inert(finding.sentence)}" for finding in found), ""] if found else []
    table = rows(report)
    lines += ["## Measures", "", *_table(report, [row for row in table if not row.special])]
    if "ratio" in report.seconds:
        lines += ["", _time(report)]
    for head, sentences in (
        ("In plain words", reading(report)),
        ("How to read it", notes(report)),
        ("What this does not prove", limits(report)),
    ):
        lines += ["", f"## {head}", "", *(f"- {inert(sentence)}" for sentence in sentences)]
    if special := [row for row in table if row.special]:
        lines += ["", "## Appendix: measures for specialists", "", *_table(report, special)]
    return "\n".join([*lines, ""])


def _table(report: ReportData, shown_rows: Sequence[Row]) -> list[str]:
    """Return rows of the table as markdown, with their head."""
    heads = [inert(report.heading(name)) for name in report.models]
    # The cells hold numbers only, so they need no escaping, which would make `[1, 2]` hard to read.
    body = [f"| {inert(row.title)} | " + " | ".join(row.cells) + " |" for row in shown_rows]
    return ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads), *body]


def to_html(report: ReportData, figures: bool = True) -> str:
    """Return one HTML page that loads nothing: styles and figures are inside, and there are no scripts.

    Args:
        figures: put the figures into the page. Default: True.

    Raises:
        ImportError: `figures` is true and matplotlib is missing.
    """
    # The original comes last: a phone shows two columns, and the other two are to be compared.
    order = sorted(range(len(report.models)), key=lambda i: list(report.models)[i] == "original")
    found = findings(report)

    def cells(special: bool) -> list[tuple[str, list[str]]]:
        return [(row.title, [row.cells[i] for i in order]) for row in rows(report) if row.special == special]

    return rendered(
        "report.html",
        **shape.page_values(answers(report), strips(report)),
        colors=COLORS,
        request=request_of(report.run),
        done=_done(report),
        time=_time(report) if "ratio" in report.seconds else "",
        models=[report.heading(list(report.models)[i]) for i in order],
        rows=cells(special=False),
        appendix=cells(special=True),
        failed=FAILED if failed(found) else (),
        warnings=[finding.sentence for finding in found],
        reading=reading(report),
        figures=svg_figures(report) if figures else [],
        settings=_settings(report),
        notes=notes(report),
        limits=limits(report),
        schema=report.schema,
    )


def to_notebook(report: ReportData) -> str:
    """Return the answers and the picture as HTML for a notebook."""
    values = shape.page_values(answers(report), strips(report))
    return standalone(rendered("report_summary.html", **values, colors=COLORS, request=request_of(report.run)))


def print_table(report: ReportData) -> None:
    """Print the answers, the table without its appendix, and the warnings to the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def safe(text: str) -> str:
        return escape(plain(text))

    request = request_of(report.run)
    table = Table(title="Measures, with 95 % intervals", title_justify="left")
    table.add_column("")
    for name in report.models:
        table.add_column(safe(report.heading(name)), justify="right")
    for row in rows(report):
        if not row.special:
            table.add_row(safe(row.title), *map(safe, row.cells))
    console = Console(width=None if Console().is_terminal else 140, highlight=False)  # lines in a log may be long
    console.print(f"\n[bold]{safe(f'Asked to forget: {request}' if request else 'Unlearning report')}[/bold]\n")
    shape.show(console, answers(report), strips(report))
    console.print()
    console.print(table)
    if "ratio" in report.seconds:
        console.print(_time(report))
    found = findings(report)
    if failed(found):
        console.print(f"[bold red]{' '.join(FAILED)}[/bold red]")
    for finding in found:
        color = "red" if finding.severity <= Severity.FAILED else "yellow"
        console.print(f"[{color}]Warning:[/{color}] {safe(finding.sentence)}")


def _done(report: ReportData) -> str:
    method, steps = report.run.get("method", {}).get("method", "?"), report.outcome.get("steps", "?")
    return f"Method: {method}, {steps} steps, {report.outcome.get('stopped', '')}."


def _time(report: ReportData) -> str:
    ratio = report.seconds["ratio"]
    if report.void:
        were = "were" if report.retrained else "was"
        return (
            f"The two durations cannot be compared, because {report.yardstick} {were} not trained as the original was."
        )
    verdict = " Retraining is cheaper here." if ratio > 1 else ""
    mean = f", the mean of {len(report.retrained)} trainings" if report.retrained else ""
    before = " An earlier run measured that time." if report.retrained_before else ""
    return f"Unlearning took {100 * ratio:.1f} % of the retraining time{mean}.{before}{verdict}"


def _settings(report: ReportData) -> list[tuple[str, str]]:
    """The settings of the run: name and value."""
    run, out = report.run, []
    for key in ("method", "arguments", "rows", "versions", "patch", "bias", "retraining"):
        entries = {name: value for name, value in (run.get(key) or {}).items() if value is not None}
        out += [(name if name == key else f"{key}: {shown(name)}", _value(entry)) for name, entry in entries.items()]
    single = ("model_type", "parameters", "forgotten_classes", "attribute")
    named = {"forgotten_classes": run.get("forgotten_labels")} if run.get("classes") else {}
    return out + [(key.replace("_", " "), _value(named.get(key) or run[key])) for key in single if run.get(key)]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{shown(k)}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return shown(value, 200)

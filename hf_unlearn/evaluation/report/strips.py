"""The picture below the answers of a report: a line for answers, relearning, what was kept, an attack, and cost."""

from collections.abc import Iterator

from ..answers import Strip
from .answers import ATTACK, PATTERN, UTILITY, asked_measures, compared, values_of
from .report_data import ReportData


def strips(report: ReportData) -> list[Strip]:
    """Return the lines of the picture that the report has figures for: answers, inside, what was kept, attack, cost."""
    return [strip for strip in _strips(report) if strip.after is not None]


def _strips(report: ReportData) -> Iterator[Strip]:
    samples = report.run.get("kind") == "samples"
    if PATTERN in asked_measures(report):
        yield _share(report, PATTERN, "answers that follow the pattern")
    else:
        yield _share(
            report, "forget_accuracy", "rows to forget, answered right" if samples else "rows to forget, recognised"
        )
    if "relearning_steps" in report.models.get("unlearned", {}):
        yield _relearning(report)
    measure = next((m for m in UTILITY if m in report.models.get("unlearned", {})), UTILITY[0])
    yield _share(report, measure, "other rows, answered right")
    if PATTERN not in asked_measures(report):
        yield _share(report, ATTACK, "attack: right guesses who was in")
    ratio = report.seconds.get("ratio")
    if ratio is not None and not report.void:
        cost = 100 * ratio
        yield Strip("time, retraining is 100 %", (0.0, max(100.0, cost)), None, cost, 100.0)


def _share(report: ReportData, measure: str, title: str) -> Strip:
    before, after, never = (None if v is None else 100 * v for v in values_of(report, measure))
    spread = report.spread("retrained", measure) if compared(report) else None
    span = (100 * spread[0], 100 * spread[1]) if spread else None
    return Strip(title, (0.0, 100.0), before, after, never, span=span)


def _relearning(report: ReportData) -> Strip:
    names = {"before": "original", "after": "unlearned"} | ({"never": "retrained"} if compared(report) else {})
    steps = {
        place: report.models[name]["relearning_steps"]
        for place, name in names.items()
        if "relearning_steps" in report.models.get(name, {})
    }
    words = tuple((place, report.relearned(names[place])) for place in steps)
    spread = report.spread("retrained", "relearning_steps") if compared(report) else None
    span = (spread[0], spread[1]) if spread else None
    most = max([1.0, *steps.values(), *(spread or ())])
    before, after, never = (steps.get(place) for place in ("before", "after", "never"))
    return Strip("steps until it is back", (0.0, most), before, after, never, span=span, texts=words)

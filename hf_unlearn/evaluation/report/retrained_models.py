"""Join the figures of several retrained models into one column: their means, and the span of their intervals."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from .report_data import ReportData


def join(report: ReportData, names: Sequence[str]) -> None:
    """Replace the figures of the retrained models `names` by those of one model `retrained`, and keep each in `report.retrained`.

    A span reaches from the lowest lower limit of any model to the highest upper limit. Curves stay as they are.
    """
    for name in names:
        figures = dict(report.models[name])
        figures |= {"gap": report.gap[name]} if name in report.gap else {}
        figures |= {"information": report.information[name]["value"]} if name in report.information else {}
        report.retrained[name] = figures
    tables: list[tuple[dict[str, Any], Callable[[list[Any]], Any]]] = [
        (report.models, _means),
        (report.gap, _means),
        (report.intervals, _spans),
        (report.per_class, _means),
        (report.per_class_intervals, _spans),
        (report.groups, _means),
        (report.group_intervals, _spans),
        (report.information, _information),
    ]
    for table, joined in tables:
        if parts := [table.pop(name) for name in names if name in table]:
            table["retrained"] = joined(parts)


def _means(parts: list[Any]) -> Any:
    """Return the mean of every number in equal structures; None stays None."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _means([part[key] for part in parts]) for key in first}
    if isinstance(first, list):
        return [_means(list(values)) for values in zip(*parts, strict=True)]
    return None if first is None else fmean(parts)


def _spans(parts: list[Any]) -> Any:
    """Return the span of every pair [low, high] in equal structures; None stays None."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _spans([part[key] for part in parts]) for key in first}
    if first is None:
        return None
    if isinstance(first[0], float | int):
        return [min(low for low, _ in parts), max(high for _, high in parts)]
    return [_spans(list(pairs)) for pairs in zip(*parts, strict=True)]


def _information(parts: list[dict[str, Any]]) -> dict[str, Any]:
    low, high = _spans([[part["low"], part["high"]] for part in parts])
    null_high = max(part["null_high"] for part in parts)
    return {**parts[0], "value": _means([p["value"] for p in parts]), "low": low, "high": high, "null_high": null_high}

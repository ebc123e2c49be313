"""Measuring a finished run: every model over the same rows, once, and the figures of a report from what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...data.sampling import draw, drawn_rows
from ...metrics.functional.fairness import group_accuracies
from ...metrics.functional.information_audit import audit
from ...metrics.functional.intervals import Interval, mean_distance, share
from ...models.prediction import predict
from ...training.protocols import FinishedRun
from ..relearning import relearn
from . import measures
from .bias_pattern import Pattern, bias_measures, read_values
from .measures import Outputs
from .report_data import ReportData
from .run_description import describe_run

RELEARNING_LIMIT = 200  # steps
TAUGHT_ROWS = 20  # forget rows that a forgotten class is relearned from
BACK = 0.9  # of the original's accuracy: relearned
GAP_MEASURES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")


def fill(
    report: ReportData,
    run: FinishedRun,
    retain: Any | None,
    test: Any | None,
    retrained: nn.Module | None = None,
    *,
    retrained_seconds: float | None = None,
    relearning: bool = False,
    pattern: Pattern | None = None,
    max_rows: int = 10_000,
) -> None:
    """Fill in `report` with the figures of the run's original and unlearned model, and of `retrained`.

    Args:
        run: a trainer after `train()`.
        retain, test: labelled data sets; without one its rows are left out. At most `max_rows` of each are read.
        retrained: a model trained without the forget set, the yardstick.
        retrained_seconds: what its training took.
        relearning: also count the steps until a forgotten class is back (class requests with a test set).
        pattern: a column of `test` and the labels that its values point to (`read_pattern` checks them): how far each model
            goes by it is measured too.
    """
    given = {"forget": run.forget_dataset, "retain": retain, "test": test}
    sets = {name: _prepared(run, rows, max_rows, name) for name, rows in given.items() if rows is not None}
    classes = run.reference.forgotten_classes
    outputs: dict[str, Outputs] = {}

    def visit(name: str, model: nn.Module) -> None:
        size = run.args.eval_batch_size
        outputs[name] = {key: predict(model, rows, run.processor, size) for key, rows in sets.items()}
        if relearning and classes and "test" in sets:
            _relearn(report, run, name, model, sets, outputs["original"]["test"])

    with run.original_weights() as model:
        visit("original", model)
    visit("unlearned", run.model)
    if retrained is not None:
        visit("retrained", retrained.to(run.args.device))

    for name, out in outputs.items():
        _figures_of_one_model(report, name, out, classes)
    if pattern is not None:
        _bias(report, run, outputs, pattern, read_values(test, pattern.column), max_rows)
    if retrained is not None and "forget" in sets:
        _distance_to_retrained(report, outputs)
    attribute = getattr(run.method, "attribute", None)
    if attribute is not None:
        _groups(report, outputs, attribute, _column(run, test if "test" in sets else retain, attribute, max_rows))
    elif {"forget", "retain"} <= sets.keys():
        _information_on_the_forget_set(report, outputs)
    report.seconds = {"unlearning": run.seconds}
    if retrained_seconds:
        report.seconds |= {"retraining": retrained_seconds, "ratio": run.seconds / retrained_seconds}
    report.outcome = run.outcome.as_dict() if run.outcome is not None else {}
    report.run |= describe_run(run, retain, {name: len(rows) for name, rows in sets.items()})


# --- figures ----------------------------------------------------------------------------------------------------------


def _add(report: ReportData, name: str, figures: Mapping[str, Interval]) -> None:
    report.models.setdefault(name, {}).update({m: figure.value for m, figure in figures.items()})
    report.intervals.setdefault(name, {}).update({m: [figure.low, figure.high] for m, figure in figures.items()})


def _figures_of_one_model(report: ReportData, name: str, out: Outputs, classes: tuple[int, ...]) -> None:
    figures, curve = measures.measure(out, classes)
    _add(report, name, figures)
    if curve is not None:
        report.roc[name] = measures.curve_of(curve)
    report.confidence[name] = {key: measures.histogram(logits) for key, (logits, _) in out.items()}
    logits, labels = out.get("test", (None, None))
    if logits is not None and labels is not None:
        report.per_class[name], report.per_class_intervals[name] = measures.per_class(logits, labels)


def _distance_to_retrained(report: ReportData, outputs: Mapping[str, Outputs]) -> None:
    yardstick = outputs["retrained"]["forget"][0]

    def figure(name: str, measure: str) -> Interval:
        return Interval(report.models[name][measure], *report.intervals[name][measure])

    for name in ("original", "unlearned"):
        _add(report, name, measures.distances(outputs[name]["forget"][0], yardstick))
        shared = [m for m in GAP_MEASURES if m in report.models[name] and m in report.models["retrained"]]
        if shared:
            ours, theirs = ([figure(n, m) for m in shared] for n in (name, "retrained"))
            report.gap[name], *limits = (100 * v for v in mean_distance(ours, theirs))
            report.intervals[name]["gap"] = limits


def _relearn(
    report: ReportData,
    run: FinishedRun,
    name: str,
    model: nn.Module,
    sets: Mapping[str, PreparedRows],
    original_test: tuple[Tensor, Tensor | None],
) -> None:
    """Test accuracy on the forgotten classes, step by step, until most of the original's is back."""
    logits, labels = original_test
    if labels is None:
        return
    gone = torch.isin(labels, torch.tensor(run.reference.forgotten_classes))
    if not gone.any():
        return  # no test row to see the class come back on
    wanted = BACK * (logits.argmax(-1) == labels)[gone].float().mean().item()
    probe = [row for row, keep in zip(sets["test"], gone.tolist(), strict=True) if keep]
    taught = [sets["forget"][i] for i in range(min(TAUGHT_ROWS, len(sets["forget"])))]
    found = relearn(model, taught, probe, run.processor, stop=wanted, limit=RELEARNING_LIMIT - 1)
    path = [accuracy for _, accuracy in found]
    report.relearning[name] = path
    steps = len(path) - 1 if path[-1] >= wanted else RELEARNING_LIMIT
    report.models.setdefault(name, {})["relearning_steps"] = steps


def _bias(
    report: ReportData,
    run: FinishedRun,
    outputs: Mapping[str, Outputs],
    pattern: Pattern,
    values: list[str],
    max_rows: int,
) -> None:
    drawn = [values[i] for i in drawn_rows(len(values), max_rows, run.args.seed)]  # the rows that `_prepared` takes
    for name, out in outputs.items():
        logits, labels = out["test"]
        if labels is not None:
            _add(report, name, bias_measures(logits.argmax(-1), labels, drawn, pattern))
    names = {number: name for name, number in run.processor.label2id.items()}
    labels_named = {value: names.get(number, str(number)) for value, number in pattern.labels.items()}
    report.run["bias"] = {"column": pattern.column, "labels": labels_named}


def _information_on_the_forget_set(report: ReportData, outputs: Mapping[str, Outputs]) -> None:
    for name, out in outputs.items():
        retain, forget = out["retain"][0].softmax(-1), out["forget"][0].softmax(-1)
        origin = ["retain"] * len(retain) + ["forget"] * len(forget)
        report.information[name] = audit(torch.cat([retain, forget]), origin, marginal=True).as_dict()


def _groups(report: ReportData, outputs: Mapping[str, Outputs], attribute: str, groups: list[Any] | None) -> None:
    """Accuracy of each group, and what the outputs tell about the group given the label."""
    if groups is None or len(set(groups)) < 2:
        return  # nothing to tell apart
    for name, out in outputs.items():
        logits, labels = out.get("test") or out["retain"]
        report.information[name] = audit(logits.softmax(-1), groups, labels).as_dict()
        if labels is None:
            continue
        accuracies = group_accuracies(logits.argmax(-1), labels, groups)
        report.groups[name] = {str(value): accuracy for value, accuracy in accuracies.items()}
        right, values = (logits.argmax(-1) == labels).numpy(), np.array(groups, dtype=object)
        intervals = {str(value): share(right[values == value]) for value in accuracies}
        report.group_intervals[name] = {value: [found.low, found.high] for value, found in intervals.items()}
    report.run["attribute"] = attribute


# --- rows -------------------------------------------------------------------------------------------------------------


def _prepared(run: FinishedRun, data: Any, limit: int, name: str) -> PreparedRows:
    """Prepared rows of `data`, at most `limit`; every model sees the same."""
    return PreparedRows(draw(data, limit, run.args.seed), run.processor, f"{name}_dataset", cache_bytes=2**29)


def _column(run: FinishedRun, data: Any, name: str, limit: int) -> list[Any] | None:
    """The column of the rows that `_prepared` takes, or None where some row lacks it."""
    if data is not None and name in (getattr(data, "column_names", None) or ()):
        data = data.select_columns([name])  # or every image would be decoded for it
    values: list[Any] = [row.get(name) for row in draw(data, limit, run.args.seed)] if data is not None else [None]
    values = [v.item() if hasattr(v, "item") else v for v in values]
    names = getattr((getattr(data, "features", None) or {}).get(name), "names", None)
    return None if any(v is None for v in values) else [names[v] if names else v for v in values]

"""Measure a finished run: run every model once over the same rows, and compute the figures of a report from its outputs."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.bad_rows import check_kind
from ...data.pairs import PreparedRows
from ...data.sampling import draw, drawn_rows
from ...metrics.functional.fairness import group_accuracies
from ...metrics.functional.information_audit import audit
from ...metrics.functional.intervals import Interval, mean_distance, mean_of, share
from ...models.prediction import predict
from ...training.checks import check_labels
from ...training.original_check import ORIGINAL, doubts_of_rows
from ...training.outcome import STILL_OUTPUTS, Outcome
from ...training.protocols import FinishedRun
from ..relearning import RELEARNED, RELEARNING_ROWS, relearn
from . import measures
from .bias_pattern import Pattern, bias_measures, read_values
from .cautions import cautions
from .measures import Outputs
from .report_data import ReportData, retrained_names
from .retrained_models import join
from .run_description import describe_run

logger = logging.getLogger(__name__)

RELEARNING_STEPS = 200  # at most
GAP_MEASURES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")


def fill(
    report: ReportData,
    run: FinishedRun,
    retain: Any | None,
    test: Any | None,
    retrained: nn.Module | Iterable[nn.Module] | None,
    retrained_seconds: float | None,
    relearning: bool,
    pattern: Pattern | None,
    max_rows: int,
) -> None:
    """Fill in `report` with the figures of the run's original and unlearned model, and of `retrained`.

    The arguments are those of `UnlearningReport.measure`.
    """
    retain, test = run.processor.align(retain, "retain_dataset"), run.processor.align(test, "test_dataset")
    for name, rows in (("retain", retain), ("test", test)):
        check_labels(run.processor, rows, f"{name}_dataset")
    given = {"forget": run.forget_dataset, "retain": retain, "test": test}
    for name, rows in given.items():
        if rows is not None:
            check_kind(rows, f"{name}_dataset")
            if hasattr(rows, "__len__"):
                run.processor.check(rows, f"{name}_dataset")
    sets = {
        name: PreparedRows(draw(rows, max_rows, run.args.seed), run.processor, f"{name}_dataset", cache_bytes=2**29)
        for name, rows in given.items()
        if rows is not None
    }
    classes = run.reference.forgotten_classes
    attribute = getattr(run.method, "attribute", None)
    groups = None if attribute is None else _column(run, test if "test" in sets else retain, attribute, max_rows)
    shown: list[str] = []
    if pattern is not None:
        values = read_values(test, pattern.column)
        shown = [values[i] for i in drawn_rows(len(values), max_rows, run.args.seed)]  # the same rows as in `sets`
    outputs: dict[str, Outputs] = {}

    def measure_model(name: str, model: nn.Module) -> None:
        """Add all figures of one model. Of its outputs only those are kept that are needed later."""
        out = {key: predict(model, rows, run.processor, run.args.eval_batch_size) for key, rows in sets.items()}
        outputs[name] = out if name == "original" else {key: out[key] for key in out if key == "forget"}
        if relearning and classes and "test" in sets:
            _relearn(report, run, name, model, sets, outputs["original"])
        _figures_of_one_model(report, name, out, classes)
        if pattern is not None:
            _bias(report, name, out, pattern, shown, run.processor.label2id)
        if attribute is not None:
            _groups(report, name, out, attribute, groups)
        elif {"forget", "retain"} <= sets.keys():
            _information_on_the_forget_set(report, name, out)

    with run.original_weights() as model:
        measure_model("original", model)
    measure_model("unlearned", run.model)
    names: list[str] = []
    for other in [retrained] if isinstance(retrained, nn.Module) else retrained or ():
        names = retrained_names(len(names) + 1)
        measure_model(names[-1], other.to(run.args.device))
        del other  # else two models would be in memory while the next one is loaded
    if names and "forget" in sets:
        _distances_to_retrained(report, outputs, names)
    if len(names) > 1:
        join(report, names)
    report.seconds = {"unlearning": run.seconds}
    if retrained_seconds:
        report.seconds |= {"retraining": retrained_seconds, "ratio": run.seconds / retrained_seconds}
    report.run |= describe_run(run, retain, {name: len(rows) for name, rows in sets.items()})
    if run.outcome is not None:
        _doubt(run, outputs["original"])
        found = cautions(run, retain, test, outputs["original"])
        run.outcome.cautions += [c for c in found if c not in run.outcome.cautions]
        report.outcome = run.outcome.as_dict()
        _judge_stillness(run.outcome, report)
        report.outcome = run.outcome.as_dict()


def _doubt(run: FinishedRun, original: Mapping[str, Any]) -> None:
    """Add to the outcome of the run what the original's answers say against the labels, unless the run itself noticed it."""
    assert run.outcome is not None
    if run.method.starts_fresh or any(w.startswith(ORIGINAL) for w in run.outcome.warnings):
        return
    for name, rows in (("retain", "rows to keep"), ("test", "test rows")):
        logits, labels = original.get(name, (None, None))
        if logits is not None and labels is not None:
            found = doubts_of_rows(logits.argmax(-1), labels, run.processor, rows)
            for doubt in found:
                logger.warning(doubt)
            run.outcome.warnings[:0] = found  # the other findings may follow from them


def _judge_stillness(outcome: Outcome, report: ReportData) -> None:
    """Count a run that moved nothing as failed, unless the report shows that there was nothing to forget."""
    if report.nothing_to_forget and STILL_OUTPUTS in outcome.warnings:
        outcome.warnings.remove(STILL_OUTPUTS)
    elif report.nothing_forgotten and report.nothing_forgotten not in outcome.warnings:
        outcome.warnings.append(report.nothing_forgotten)


def _add(report: ReportData, name: str, figures: Mapping[str, Interval]) -> None:
    report.models.setdefault(name, {}).update({m: figure.value for m, figure in figures.items()})
    report.intervals.setdefault(name, {}).update({m: [figure.low, figure.high] for m, figure in figures.items()})


def _figures_of_one_model(report: ReportData, name: str, out: Outputs, classes: tuple[int, ...]) -> None:
    figures, roc = measures.measure(out, classes)
    _add(report, name, figures)
    if roc is not None:
        rates, found = roc.curve
        sizes = {"members": roc.members, "others": roc.others}
        report.roc[name] = {"false_positives": rates, "true_positives": found, **sizes}
    report.confidence[name] = {key: measures.histogram(logits) for key, (logits, _) in out.items()}
    logits, labels = out.get("test", (None, None))
    if logits is not None and labels is not None:
        report.per_class[name], report.per_class_intervals[name] = measures.per_class(logits, labels)


def _distances_to_retrained(report: ReportData, outputs: Mapping[str, Outputs], retrained: Sequence[str]) -> None:
    """Measure how far models are from the retrained ones, on average, and how far several of these are from each other."""
    for name in ("original", "unlearned", *(retrained if len(retrained) > 1 else ())):
        others = [other for other in retrained if other != name]
        _add(report, name, measures.distances(outputs[name]["forget"][0], [outputs[n]["forget"][0] for n in others]))
        shared = [m for m in GAP_MEASURES if m in report.models[name] and m in report.models[others[0]]]
        if shared:
            ours, *theirs = (
                [Interval(report.models[n][m], *report.intervals[n][m]) for m in shared] for n in (name, *others)
            )
            report.gap[name], *limits = (100 * v for v in mean_of([mean_distance(ours, t) for t in theirs]))
            report.intervals[name]["gap"] = limits


def _relearn(
    report: ReportData,
    run: FinishedRun,
    name: str,
    model: nn.Module,
    sets: Mapping[str, PreparedRows],
    original: Outputs,
) -> None:
    """Measure test accuracy on the forgotten classes while these are taught again, until most of the original's is back.

    The original needs no teaching, so it has no curve.
    """
    logits, labels = original["test"]
    if labels is None:
        return
    forgotten = torch.isin(labels, torch.tensor(run.reference.forgotten_classes))
    if not forgotten.any():
        return  # no test row shows whether the class is relearned
    wanted = RELEARNED * (logits.argmax(-1) == labels)[forgotten].float().mean().item()
    if not wanted:
        return  # the original does not know the classes, so there is nothing to come back
    taught = min(RELEARNING_ROWS, len(sets["forget"]))
    if name == "original":
        report.run["relearning"] = {"rows": taught, "wanted": wanted}
        report.models.setdefault(name, {})["relearning_steps"] = 0
        return
    probe = [row for row, keep in zip(sets["test"], forgotten.tolist(), strict=True) if keep]
    rows = [sets["forget"][i] for i in range(taught)]
    curve = relearn(model, rows, probe, run.processor, stop=wanted, limit=RELEARNING_STEPS - 1)
    report.relearning[name] = accuracies = [accuracy for _, accuracy in curve]
    steps = len(accuracies) - 1 if accuracies[-1] >= wanted else RELEARNING_STEPS
    report.models.setdefault(name, {})["relearning_steps"] = steps


def _bias(
    report: ReportData, name: str, out: Outputs, pattern: Pattern, values: list[str], label2id: Mapping[str, int]
) -> None:
    logits, labels = out["test"]
    if labels is not None:
        _add(report, name, bias_measures(logits.argmax(-1), labels, values, pattern))
    names = {number: name for name, number in label2id.items()}
    labels_named = {value: names.get(number, str(number)) for value, number in pattern.labels.items()}
    report.run["bias"] = {"column": pattern.column, "labels": labels_named}


def _information_on_the_forget_set(report: ReportData, name: str, out: Outputs) -> None:
    retain, forget = out["retain"][0].softmax(-1), out["forget"][0].softmax(-1)
    origin = ["retain"] * len(retain) + ["forget"] * len(forget)
    report.information[name] = audit(torch.cat([retain, forget]), origin, marginal=True).as_dict()


def _groups(report: ReportData, name: str, out: Outputs, attribute: str, groups: list[Any] | None) -> None:
    """Measure the accuracy of each group, and what the outputs tell about the group given the label."""
    if groups is None or len(set(groups)) < 2:
        return
    report.run["attribute"] = attribute
    logits, labels = out.get("test") or out["retain"]
    report.information[name] = audit(logits.softmax(-1), groups, labels).as_dict()
    if labels is None:
        return
    accuracies = group_accuracies(logits.argmax(-1), labels, groups)
    report.groups[name] = {str(value): accuracy for value, accuracy in accuracies.items()}
    right, values = (logits.argmax(-1) == labels).numpy(), np.array(groups, dtype=object)
    limits = {str(value): share(right[values == value])[1:] for value in accuracies}
    report.group_intervals[name] = {value: list(pair) for value, pair in limits.items()}


def _column(run: FinishedRun, data: Any, name: str, limit: int) -> list[Any] | None:
    """The values of a column in the rows that are measured, or None if a row has no value."""
    if data is not None and name in (getattr(data, "column_names", None) or ()):
        data = data.select_columns([name])  # else every image would be decoded
    values: list[Any] = [row.get(name) for row in draw(data, limit, run.args.seed)] if data is not None else [None]
    values = [v.item() if hasattr(v, "item") else v for v in values]
    names = getattr((getattr(data, "features", None) or {}).get(name), "names", None)
    return None if any(v is None for v in values) else [names[v] if names else v for v in values]

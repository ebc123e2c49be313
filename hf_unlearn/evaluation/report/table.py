"""The table of a report: a title and one cell per model in each row, with the interval beside each figure."""

from typing import NamedTuple

from ...utils.safe_text import shown
from .report_data import ReportData

# Measure -> title with unit, in the order of the table.
TITLES = {
    "forget_accuracy": "accuracy on the forget set (%)",
    "forget_f1": "macro F1 on the forget set (%)",
    "retain_accuracy": "accuracy on the retain set (%)",
    "retain_f1": "macro F1 on the retain set (%)",
    "test_accuracy": "test accuracy (%)",
    "test_f1": "test macro F1 (%)",
    "test_forgotten_accuracy": "test accuracy, forgotten classes (%)",
    "test_kept_accuracy": "test accuracy, kept classes (%)",
    "membership_attack": "entropy attack: forget samples called members (%)",
    "loss_attack_auc": "loss attack: AUC, 0.5 is chance",
    "loss_attack_tpr_0.01": "loss attack: members found at 1 % false alarms (%)",
    "loss_attack_tpr_0.001": "loss attack: members found at 0.1 % false alarms (%)",
    "js_to_retrained": "Jensen–Shannon divergence to retrained, forget set (nats)",
    "agreement_with_retrained": "same answer as retrained, forget set (%)",
    "bias_following": "bias following: {label} where {column} says so and the label is another (%)",
    "bias_without": "the same answers to other rows, without the pattern (%)",
    "accuracy_with_pattern": "test accuracy with the pattern (%)",
    "accuracy_without_pattern": "test accuracy without the pattern (%)",
    "aligned_minus_conflicting": "accuracy where pattern and label agree, minus where they do not (points)",
    "worst_group_accuracy": "worst-group accuracy ({column} × label) (%)",
    "cramers_v": "Cramér's V of answer and {column}",
    "relearning_steps": "steps until the class is relearned",
    "gap": "gap to retrained, mean of 4 (points)",
}
# Rows that only specialists read. They stand in an appendix.
APPENDIX = (
    "forget_f1",
    "retain_f1",
    "test_f1",
    "loss_attack_tpr_0.01",
    "loss_attack_tpr_0.001",
    "js_to_retrained",
    "agreement_with_retrained",
    "cramers_v",
    "gap",
    "information",
)
INTERVAL, SPREAD = "{} [{}, {}]", "{} ({} to {})"
COMPARED = ("js_to_retrained", "agreement_with_retrained", "gap")  # nothing without a yardstick
# Decimals of measures that are no shares; shares are shown in percent with one decimal.
DIGITS = {"js_to_retrained": 4, "cramers_v": 3, "gap": 2, "loss_attack_auc": 3}


def title(report: ReportData, measure: str) -> str:
    """Return what a measure is called, with its unit and the names of the report's bias pattern."""
    forgotten = report.run.get("forgotten_labels") or []
    if measure == "test_forgotten_accuracy" and report.run.get("classes") and 1 <= len(forgotten) <= 3:
        return f"test accuracy, forgotten {'class' if len(forgotten) == 1 else 'classes'} {', '.join(map(shown, forgotten))} (%)"
    bias = report.run.get("bias", {"column": "", "labels": {}})
    labels = ", ".join(dict.fromkeys(f"'{shown(name)}'" for name in bias["labels"].values()))
    return TITLES[measure].format(column=f"'{shown(bias['column'])}'", label=labels)


def cell(measure: str, value: float | None, limits: list[float] | None = None, form: str = INTERVAL) -> str:
    """Return a figure with its interval, such as `97.1 [96.2, 97.9]`, or with other `limits` in another `form`.

    Shares are in percent.
    """
    if value is None:
        return "–"
    if measure == "relearning_steps":
        return f"{value:.0f}"
    scale = 1 if measure in DIGITS else 100
    figures = [f"{scale * v:.{DIGITS.get(measure, 1)}f}" for v in (value, *(limits or ()))]
    return form.format(*figures) if limits else figures[0]


class Row(NamedTuple):
    """A row of the table: its measure, its title, and a cell for each model."""

    measure: str
    title: str
    cells: list[str]

    @property
    def special(self) -> bool:
        """True if the row stands in the appendix."""
        return self.measure in APPENDIX


def rows(report: ReportData) -> list[Row]:
    """Return all rows. Names from data are in them, shortened but not escaped. Those on groups have the measure `group`."""
    names = list(report.models)
    out = []
    for measure in TITLES:
        if measure in COMPARED and report.void:
            continue
        values = [report.gap.get(n) if measure == "gap" else report.models[n].get(measure) for n in names]
        if any(v is not None for v in values):
            cells = [_cell(report, n, measure, v) for n, v in zip(names, values, strict=True)]
            out.append(Row(measure, title(report, measure), cells))
    out += [Row("information", *row) for row in _information(report, names)]
    for group in next(iter(report.groups.values()), {}):
        what = f"accuracy where '{shown(report.run['attribute'])}' is {shown(group)} (%)"
        limits = [report.group_intervals.get(n, {}).get(group) for n in names]
        cells = [cell("", report.groups[n][group], i) for n, i in zip(names, limits, strict=True)]
        out.append(Row("group", what, cells))
    if "unlearning" in report.seconds:
        keys = {"unlearned": "unlearning", "retrained": "retraining"}
        seconds = [report.seconds.get(keys.get(n, "")) for n in names]
        out.append(Row("seconds", "seconds", [f"{s:.1f}" if s is not None else "–" for s in seconds]))
    return out


def _cell(report: ReportData, name: str, measure: str, value: float | None) -> str:
    """Return a figure of one model with its interval. That of several retrained models has the lowest and the highest instead."""
    spread = report.spread(name, measure)
    if measure == "relearning_steps" and value is not None:
        steps = report.relearned(name)
        return f"{steps} ({spread[0]:.0f} to {spread[1]:.0f})" if spread and steps.isdigit() else steps
    if spread:
        return cell(measure, value, spread, SPREAD)
    return cell(measure, value, report.intervals.get(name, {}).get(measure))


def _information(report: ReportData, names: list[str]) -> list[tuple[str, list[str]]]:
    if not report.information:
        return []
    information = [report.information[n] for n in names]
    what = f"'{shown(report.run['attribute'])}'" if "attribute" in report.run else "the forget set"
    what += " given the label" if information[0]["conditional"] else ""
    spreads = [report.spread(n, "information") for n in names]
    scaled = [
        ([1e3 * v for v in (i["value"], *(spread or (i["low"], i["high"])))], SPREAD if spread else INTERVAL)
        for i, spread in zip(information, spreads, strict=True)
    ]
    return [
        (f"information on {what} (millinats)", [form.format(*(f"{v:.2f}" for v in values)) for values, form in scaled]),
        ("the same, for outputs without any information", [f"≤ {1e3 * i['null_high']:.2f}" for i in information]),
    ]

"""What a reader of a report has to be warned of, the worst first. Terminal, report and card all print this list."""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from ...training.outcome import STILL_OUTPUTS
from ...utils.safe_text import plain
from .report_data import ReportData

FAILED = ("This run failed: the model did not do what was asked.", "Do not take it for a model that has forgotten.")
LOADS_AS_ORIGINAL = (
    "if this model is loaded with transformers alone, it is the original. Load it as its card says under 'How to load'"
)
PATCH = (
    "this is an adapter, a patch beside its base model. The base still holds what was to be forgotten, and whoever loads it alone "
    "has it back: publishing this patch erases nothing"
)
HEAD_ONLY = (
    "only the last layers (the head) were changed. The features in front of them are the original's, so what was to be forgotten is "
    "hidden in the answers rather than removed"
)


class Severity(IntEnum):
    """How bad a finding is. The worst has the lowest number."""

    VOID = 0  # no figure can be read against the retrained model
    FAILED = 1  # the run did not do what was asked
    REMAINS = 2  # what was to be forgotten is still there, or comes back
    CAUTION = 3  # figures are missing or tell less than they seem to, or files beside the model tell more
    DIFFERS = 4  # the model does other than a model that never saw the rows
    NOTE = 5  # nothing is wrong, but a reader could take it for something else


class Finding(NamedTuple):
    """One warning: how bad it is, and a sentence without a full stop at its end."""

    severity: Severity
    text: str

    @property
    def sentence(self) -> str:
        """The text on one line, as a sentence that ends with a full stop."""
        text = plain(self.text)
        return text if text.endswith((".", "!", "?")) else f"{text}."


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Return findings by severity, each text once. Equally bad ones stay in their order."""
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity)


def failed(found: Iterable[Finding]) -> bool:
    """Return True if a finding says that the run did not do what was asked."""
    return any(finding.severity is Severity.FAILED for finding in found)


def findings(report: ReportData) -> list[Finding]:
    """Return everything that a reader of `report` has to be warned of, the worst first."""
    return worst_first([*_of_the_run(report), *_of_the_model(report), *_of_the_figures(report)])


def changes_head_only(run: dict[str, Any]) -> bool:
    """Return True if `run`, the description in a report, says that nothing before the head was allowed to change."""
    if (run.get("about") or {}).get("loads_with"):
        return False  # no weight was changed
    return bool(run.get("head_only", (run.get("arguments") or {}).get("update") == "head"))


def is_patch(run: Mapping[str, Any]) -> bool:
    """Return True if `run` says that an adapter was changed that lies on a model which knows the rows."""
    return bool(run.get("patch") or (run.get("adapter") and not run.get("adapter_of_base")))


def _of_the_run(report: ReportData) -> Iterator[Finding]:
    if report.void:
        yield Finding(Severity.VOID, report.void)
    judged = report.nothing_to_forget or report.nothing_forgotten  # which says more than that outputs did not move
    for warning in report.outcome.get("warnings", []):
        if not (judged and warning == STILL_OUTPUTS):
            yield Finding(Severity.FAILED, warning)
    if report.nothing_forgotten:
        yield Finding(Severity.FAILED, report.nothing_forgotten)
    for caution in report.outcome.get("cautions", []):
        yield Finding(Severity.CAUTION, caution)
    if report.nothing_to_forget:
        yield Finding(Severity.NOTE, report.nothing_to_forget)


def _of_the_model(report: ReportData) -> Iterator[Finding]:
    run = report.run
    if (run.get("about") or {}).get("loads_with"):
        yield Finding(Severity.REMAINS, LOADS_AS_ORIGINAL)
    if is_patch(run):
        yield Finding(Severity.REMAINS, PATCH)
    if changes_head_only(run):
        yield Finding(Severity.REMAINS, HEAD_ONLY)


def _of_the_figures(report: ReportData) -> Iterator[Finding]:
    ours, theirs = report.models.get("unlearned", {}), None if report.void else report.models.get("retrained")
    lowest = (report.spread("retrained", "forget_accuracy") or [(theirs or {}).get("forget_accuracy", 0.0)])[0]
    if theirs and ours.get("forget_accuracy", 0.0) < lowest - 0.05:
        yield Finding(Severity.DIFFERS, f"over-forgetting: accuracy on the forget set is below {report.of_yardstick}")
    limits = [report.intervals.get(n, {}).get("forget_accuracy") for n in ("unlearned", "retrained")]
    if theirs and limits[0] and limits[1] and limits[0][0] > limits[1][1]:
        yield Finding(
            Severity.REMAINS,
            f"under-forgetting: accuracy on the forget set is above {report.of_yardstick}, {_beyond(report)}",
        )
    yield from _of_attacks(report)
    if theirs and report.comes_back_sooner:
        yield Finding(
            Severity.REMAINS,
            f"shallow: the class is back after {report.relearned('unlearned')} relearning steps, {report.yardstick} "
            f"{'take on average' if report.retrained else 'takes'} {report.relearned('retrained')}; outputs look right, weights still "
            "know it",
        )


def _beyond(report: ReportData) -> str:
    return f"beyond {'all' if report.retrained else 'both'} intervals"


def _of_attacks(report: ReportData) -> Iterator[Finding]:
    """Attacks that find less in the unlearned model than in the retrained one, or less than chance."""
    for measure, attack in (("membership_attack", "entropy attack"), ("loss_attack_auc", "loss attack")):
        ours, theirs = (report.intervals.get(n, {}).get(measure) for n in ("unlearned", "retrained"))
        theirs = None if report.void else theirs
        if ours and theirs and ours[1] < theirs[0]:
            less = f"the {attack} finds less than in {report.yardstick}, {_beyond(report)}"
            if report.began_lower(measure):
                yield Finding(Severity.REMAINS, f"under-forgetting: {less}, and still less in the original")
            else:
                yield Finding(Severity.DIFFERS, f"over-forgetting: {less}")
        elif ours and not theirs and measure == "loss_attack_auc" and ours[1] < 0.5:
            yield Finding(
                Severity.DIFFERS,
                "over-forgetting: the loss attack is below chance, so losses on the forget set are higher than on test "
                "rows, and an attacker who reads it the other way round finds the forgotten rows",
            )

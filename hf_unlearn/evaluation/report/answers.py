"""The answers of a report to the five questions, and its picture. Every form of a report shows them first."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ...training.outcome import UNCHANGED
from ...utils.safe_text import shown
from ..answers import (
    BAD,
    FORGOT,
    GOOD,
    KEPT,
    NEVER,
    NEXT,
    NOTHING_CHANGED,
    REMAINS,
    STEP,
    SURE,
    UNSURE,
    Answer,
    number,
    told,
)
from .findings import changes_head_only, failed, findings, is_patch
from .report_data import ReportData

MEMORY = ("forget_accuracy", "test_forgotten_accuracy", "loss_attack_auc")  # what shows that rows are known
PATTERN, ATTACK = "bias_following", "loss_attack_auc"
UTILITY = ("test_kept_accuracy", "test_accuracy", "retain_accuracy")  # the first that was measured says what was kept
FEW = 50  # rows below which an answer rests on few examples
FELL = 0.05  # fall of accuracy from which few rows are no excuse
AUDIT = "`hf-unlearn audit` also looks inside the model"
NEARLY = 0.2  # of the way from the original to the yardstick that may be left
BEHAVES = {
    "higher": (BAD, "No"),
    "mostly": (UNSURE, "Mostly"),
    "lower": (UNSURE, "Too much"),
    "same": (GOOD, "Yes"),
    "untold": (UNSURE, "Cannot tell"),
    "unknown": (UNSURE, "Not known"),
}


class Told(NamedTuple):
    """One measure of what is remembered, against a model that never saw the rows.

    Attributes:
        measure: its name.
        side: `higher` or `lower` than the yardstick, `mostly` if it is higher but more than half of the way is done, or the `same`;
            `untold` if the original is no other than the yardstick either, and
            `unknown` without a yardstick.
        fell: True if it is clearly lower than before.
    """

    measure: str
    side: str
    fell: bool


def answers(report: ReportData) -> list[Answer]:
    """Return the answers to the five questions, in their order; none for a report without an unlearned model."""
    if not {"original", "unlearned"} <= report.models.keys():
        return []
    forgot, remains, kept = _forgot(report), _remains(report), _kept(report)
    if forgot.light is GOOD and remains.light is BAD:
        forgot = replace(forgot, short="In its answers only", light=UNSURE)
    return [forgot, _sure(report, forgot), remains, kept, _next(report, forgot, remains, kept)]


def unchanged(report: ReportData) -> bool:
    """Return True if the run ended with the original, or its outputs did not move, or not one figure is another than before."""
    if UNCHANGED in report.outcome.get("warnings", ()) or report.nothing_forgotten or report.nothing_to_forget:
        return True
    before, after = (report.models.get(name, {}) for name in ("original", "unlearned"))
    shared = [m for m in (*MEMORY, PATTERN, *UTILITY) if m in before and m in after]
    told = [report.information.get(name, {}).get("value") for name in ("original", "unlearned")]  # about an attribute
    return bool(shared) and told[0] == told[1] and all(before[m] == after[m] for m in shared)


def compared(report: ReportData) -> bool:
    """Return True if the report has retrained models that are a yardstick."""
    return "retrained" in report.models and not report.void


def values_of(report: ReportData, measure: str) -> tuple[float | None, float | None, float | None]:
    """Return a measure before and after, and that of the yardstick, as shares."""
    names = ("original", "unlearned", "retrained" if compared(report) else "")
    before, after, never = (report.models.get(name, {}).get(measure) for name in names)
    return before, after, never


def _of_attribute(report: ReportData) -> bool:
    """Return True if what the answers tell about an attribute was to be forgotten, and was measured."""
    return bool(report.information) and "attribute" in report.run


def asked_measures(report: ReportData) -> tuple[str, ...]:
    """Return the measures of what was to be forgotten: of the pattern, of the answers on a class, or also of an attack on rows."""
    if PATTERN in report.intervals.get("unlearned", {}):
        return (PATTERN,)
    return MEMORY if report.run.get("kind") == "samples" else tuple(m for m in MEMORY if m != ATTACK)


def _side(report: ReportData, measure: str) -> Told | None:
    """Return where a measure of the unlearned model lies; None if it was not measured."""
    before, after, never = (report.intervals.get(n, {}).get(measure) for n in ("original", "unlearned", "retrained"))
    if not before or not after:
        return None
    fell = after[1] < before[0]
    if not compared(report) or not never:
        return Told(measure, "unknown", fell)
    if after[0] > never[1]:
        begun, ended, goal = values_of(report, measure)
        half = fell and begun - ended >= 0.5 * (begun - goal)  # type: ignore[operator]
        return Told(measure, "mostly" if half else "higher", fell)
    if after[1] < never[0] and not report.began_lower(measure):
        return Told(measure, "lower", fell)
    if before[0] <= never[1] and before[1] >= never[0]:
        return Told(measure, "untold", fell)
    # With few rows intervals are wide and overlap, so the figure itself must have come to the yardstick's interval, or nearly.
    begun, ended, goal = values_of(report, measure)
    assert begun is not None
    assert ended is not None
    assert goal is not None
    missing = (ended - goal) / (begun - goal) if begun != goal else 1.0  # of the way; below 0 beyond the yardstick
    if missing <= NEARLY or (never[0] <= ended <= never[1] and missing <= 0.5):
        return Told(measure, "same", fell)
    return Told(measure, "mostly" if fell and missing <= 0.5 else "untold", fell)


def _forgot(report: ReportData) -> Answer:
    if _of_attribute(report):
        return _attribute(report)
    sides = [told for measure in asked_measures(report) if (told := _side(report, measure))]
    if not sides:
        return Answer(FORGOT, "Not known", "What the model answers on these rows was not measured.", UNSURE)
    by_side = {told.side: told for told in reversed(sides)}  # the first of each
    side = next(side for side in BEHAVES if side in by_side)
    measure = sides[0].measure if side in ("untold", "unknown") else by_side[side].measure
    text, (light, short) = _recognised(report, measure), BEHAVES[side]
    if unchanged(report):
        return _nothing_changed(report, side, text)
    if side == "higher" and by_side[side].fell:
        short = "Only in part"
    if side == "untold":
        text += " Too few examples, or too little difference, to tell these apart."
    if side == "unknown":
        if report.outcome.get("target_reached") and not failed(findings(report)):
            return Answer(FORGOT, "In its answers, yes", f"{text} No model that never saw them was measured.", UNSURE)
        if report.outcome.get("target_reached") is False:
            return Answer(FORGOT, "No", f"{text} The run did not reach its target.", BAD)
        text += " What a model that never saw them would do was not measured."
    if side == "lower":
        less = "follows it even less" if measure == PATTERN else "does worse on them"
        text += f" It {less} than a model that never saw them."
    return _if_it_counts(report, Answer(FORGOT, short, text, light))


def _if_it_counts(report: ReportData, answer: Answer) -> Answer:
    """Return the answer, unless the run failed: then nothing that it ends with counts."""
    if answer.light is BAD or not failed(findings(report)):
        return answer
    return Answer(FORGOT, "The run failed", f"{answer.text} Its warnings below say why it does not count.", BAD)


def _attribute(report: ReportData) -> Answer:
    """Say how much the answers still tell about an attribute, as a share of what they told before."""
    name, found = shown(report.run["attribute"]), report.information
    before, after = found["original"], found["unlearned"]
    never = found.get("retrained") if compared(report) else None
    if before["low"] <= before["null_high"]:
        text = f"Not even the original's answers tell more about '{name}' than chance would."
        return Answer(FORGOT, "Cannot tell", text, UNSURE)
    whole = before["value"]
    left, theirs = (None if each is None else max(each["value"], 0.0) / whole for each in (after, never))
    text = told(f"of what the answers tell about '{name}'", 1.0, left, theirs, "A model that never saw it")
    by_chance, fell = after["low"] <= after["null_high"], after["high"] < before["low"]
    if unchanged(report) or not (fell or by_chance):
        return Answer(FORGOT, "No", text, BAD)
    if not fell:
        text += " Neither chance nor what it was before can be ruled out: more rows would tell."
        return _if_it_counts(report, Answer(FORGOT, "Cannot tell", text, UNSURE))
    if by_chance:
        answer = Answer(FORGOT, "Yes", f"{text} That cannot be told from chance.", GOOD)
    elif never is not None and after["low"] <= never["high"]:
        answer = Answer(FORGOT, "Yes", f"{text} That is as after retraining.", GOOD)
    else:
        answer = Answer(FORGOT, "In part", f"{text} More is left than chance would show.", UNSURE)
    return _if_it_counts(report, answer)


def _nothing_changed(report: ReportData, side: str, text: str) -> Answer:
    if report.nothing_to_forget:
        return Answer(FORGOT, "Nothing to forget", f"{text} The original already treats them as unseen rows.", UNSURE)
    if side == "untold":
        text += " Too few examples, or too little difference, to tell these apart."
    return Answer(FORGOT, "No", text, BAD)


def _recognised(report: ReportData, measure: str) -> str:
    """Return a measure before, after, and of models that never saw the rows; "nothing changed" is said in these words."""
    values = values_of(report, measure)
    who = f"{len(report.retrained)} models that never saw them" if report.retrained else NEVER
    still = NOTHING_CHANGED if unchanged(report) else ""
    if measure == ATTACK:
        what = "of guesses who was in the training data are right (50 % is chance)"
        return f"{told(what, *values, who, still)} Its answers are judged by an attack."
    if measure == PATTERN:
        return told("follow the pattern", *values, who, still)
    about = "of unseen rows of the class recognised" if measure == "test_forgotten_accuracy" else "recognised"
    return told(about if report.run.get("kind") != "samples" else "answered right", *values, who, still)


def _sure(report: ReportData, forgot: Answer) -> Answer:
    rows = (report.run.get("rows") or {}).get("forget")
    on = f" on {rows:,} row{'' if rows == 1 else 's'} to forget" if rows else ""
    if _of_attribute(report):
        text = f"What the answers tell is compared with what chance gives on the same rows{'' if compared(report) else '. No rows were removed, so there is no model to compare with'}."
        return Answer(SURE, "Fairly", text, UNSURE)
    if report.void:
        return Answer(
            SURE, "Not at all", "The retrained model was not trained as the original was, so it is no yardstick.", BAD
        )
    if not compared(report):
        return Answer(
            SURE,
            "Not very",
            f"Measured{on}. There is no model that never saw them to compare with."
            if on
            else "There is no model that never saw them to compare with.",
            UNSURE,
        )
    many = len(report.retrained)
    against = (
        f"Compared with {many or 'one'} model{'s' if many else ''} trained without them,{on or ' on the same rows'}."
    )
    if forgot.short == "Cannot tell":
        return Answer(
            SURE, "Not sure", f"{against} Not even the original could be told from {'these' if many else 'it'}.", UNSURE
        )
    if rows and rows < FEW:
        return Answer(SURE, "Few examples", f"{against} So few rows tell only large differences.", UNSURE)
    if not many:
        return Answer(SURE, "Fairly", f"{against} A second one would show how much such models differ.", UNSURE)
    return Answer(SURE, "Sure of its answers", f"{against} Answers were tested; {AUDIT}.", GOOD)


def _remains(report: ReportData) -> Answer:
    if unchanged(report):
        if report.nothing_to_forget:
            return Answer(REMAINS, "As before", "No trace of these rows was found, before or after.", UNSURE)
        return Answer(REMAINS, "Everything", "The answers are as before.", BAD)
    hidden, traces = list(_hidden(report)), list(_traces(report))
    if hidden:
        return Answer(REMAINS, "Hidden, not gone", " ".join([*hidden, *traces]), BAD)
    if traces:
        return Answer(REMAINS, "Traces", " ".join(traces), UNSURE)
    if _of_attribute(report):
        return Answer(
            REMAINS, "Not known", "Only answers were tested. The layers in front of them may still hold it.", UNSURE
        )
    tested = ["its answers"] + (["relearning"] if report.relearning else [])
    against = compared(report)
    return Answer(
        REMAINS,
        "Nothing was found" if against else "Not known",
        f"Tested: {' and '.join(tested)}{'' if against else ', with nothing to compare with'}. {AUDIT}.",
        GOOD if against else UNSURE,
    )


def _hidden(report: ReportData) -> Iterator[str]:
    if (report.run.get("about") or {}).get("loads_with"):
        yield "Loaded with transformers alone, this model is the original."
    if is_patch(report.run):
        yield "This is a patch: without it, its base still knows everything."
    if changes_head_only(report.run):
        yield "Only the last layer was changed, so the layers in front of it know what they knew."
    if compared(report) and report.comes_back_sooner:
        yield (
            f"It comes back after {report.relearned('unlearned')} steps of teaching, in a model that never saw them after "
            f"{report.relearned('retrained')}."
        )


def _traces(report: ReportData) -> Iterator[str]:
    if PATTERN in asked_measures(report):
        return  # the rows themselves may be known
    attack, calls = _side(report, ATTACK), _side(report, "membership_attack")
    if attack is not None and attack.side in ("higher", "mostly"):
        yield "An attacker can still tell that these rows were in the training data."
    else:
        auc = report.intervals.get("unlearned", {}).get(ATTACK)
        chance = attack is not None and attack.side == "unknown" and auc and auc[1] < 0.5
        if chance or any(found is not None and found.side == "lower" for found in (attack, calls)):
            yield "An attacker could notice that something was removed: the model is unnaturally unsure about these examples."
    answered = [_side(report, measure) for measure in asked_measures(report) if measure != ATTACK]
    if any(found is not None and found.side in ("higher", "mostly") for found in answered):
        yield "It still answers them better than a model that never saw them."


def _kept(report: ReportData) -> Answer:
    measure = next((m for m in UTILITY if m in report.models["unlearned"] and m in report.models["original"]), None)
    if measure is None:
        return Answer(KEPT, "Not known", "No rows to keep and no test rows with labels were measured.", UNSURE)
    before, after, never = values_of(report, measure)
    rows = {"test_kept_accuracy": "of unseen rows to keep", "test_accuracy": "of unseen rows"}.get(
        measure, "of the rows to keep"
    )
    text = told(
        f"{rows} answered right",
        before,
        after,
        never,
        NEVER if never is None else "A model that never saw what was forgotten",
    )
    ours = report.intervals.get("unlearned", {}).get(measure)
    other = report.intervals.get("retrained" if never is not None else "original", {}).get(measure)
    reference = before if never is None else never
    assert after is not None
    assert reference is not None
    assert before is not None
    if ours and other and ours[1] < other[0] and after < before:
        return Answer(KEPT, "Damaged", f"{text} That is clearly less.", BAD)
    if after < min(reference, before) - FELL:
        return Answer(KEPT, "Perhaps less", f"{text} Too few rows to tell whether that is chance.", UNSURE)
    seen = [report.intervals.get(n, {}).get("retain_accuracy") for n in ("unlearned", "original")]
    if measure != "retain_accuracy" and seen[0] and seen[1] and seen[0][1] < seen[1][0]:
        begun, ended = (number(100 * report.models[name]["retain_accuracy"]) for name in ("original", "unlearned"))
        return Answer(
            KEPT, "Most of it", f"{text} Of the training rows to keep: before {begun}, after {ended}.", UNSURE
        )
    return Answer(KEPT, "All that was tested", text, GOOD)


def _next(report: ReportData, forgot: Answer, remains: Answer, kept: Answer) -> Answer:
    if report.nothing_to_forget and unchanged(report):
        return Answer(NEXT, "Nothing", "These rows left no trace in the original that this run can find.", STEP)
    if forgot.light is BAD:
        text = "Do not take this for a model that has forgotten. Try another method (`hf-unlearn methods`), or retrain."
        return Answer(NEXT, "Run it again", text, STEP)
    if kept.light is BAD:
        text = "Keep the original. Try fewer steps, a smaller `trust_region` or another method, or retrain."
        return Answer(NEXT, "Run it again", text, STEP)
    if report.void:
        text = "Set `train_epochs`, `train_learning_rate` and `train_batch_size` as in the training of the original."
        return Answer(NEXT, "Run it again", text, STEP)
    if is_patch(report.run):
        text = "Merge the patch into the weights, and do not publish the base. A patch alone erases nothing."
        return Answer(NEXT, "Merge the patch", text, STEP)
    if remains.short == "Hidden, not gone":
        text = "To remove it and not only hide it, use a method that changes the features (`hf-unlearn methods`), or retrain."
        return Answer(NEXT, "Go deeper", text, STEP)
    if _of_attribute(report):
        text = "Compare the accuracy of the groups below. Then publish it with `hf-unlearn push`."
        return Answer(NEXT, "Look at the groups", text, STEP)
    if not compared(report):
        return Answer(
            NEXT, "Compare", "Run it again with `--retrain 3`, to see what models do that never saw them.", STEP
        )
    if report.seconds.get("ratio", 0.0) > 1:
        return Answer(
            NEXT, "Retrain instead", "Retraining took less time here than unlearning, and leaves no doubt.", STEP
        )
    if forgot.light is UNSURE:
        text = (
            "More test rows or more retrained models (`--retrain 3`) would tell more. `hf-unlearn audit` looks inside."
        )
        return Answer(NEXT, "Measure more", text, STEP)
    return Answer(
        NEXT, "Audit it", "`hf-unlearn audit` looks inside the model. Then publish it with `hf-unlearn push`.", STEP
    )

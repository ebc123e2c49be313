"""Say in plain words what the figures of a report mean, how to read them, and what they do not prove."""

from collections.abc import Mapping
from typing import Any

from ...utils.hub_names import COMMIT, HUB_ID
from ...utils.safe_text import shown
from .findings import is_patch
from .report_data import ReportData
from .table import cell

# Measure -> subject of the sentence, and what a value above and a value below that of the yardstick, {}, means.
SENTENCES = {
    "forget_accuracy": ("Accuracy on the forget set", "it still remembers", "it over-forgets"),
    "test_forgotten_accuracy": ("Test accuracy on the forgotten classes", "it still remembers", "it over-forgets"),
    "retain_accuracy": ("Accuracy on the retain set", "nothing was lost there", "kept data suffered"),
    "test_accuracy": ("Test accuracy", "it does more than {}", "the model suffered"),
    "membership_attack": ("The share that the entropy attack calls members", "it still remembers", "it over-forgets"),
    "loss_attack_auc": ("The AUC of the loss attack", "it still remembers", "it over-forgets"),
    "bias_following": ("The share that follows the pattern", "the bias is still there", "it avoids the pattern"),
}
YARDSTICK = "Read every figure against {}: distance to {} is what counts, in either direction."
SEVERAL = (
    "The figures of {} are means, over models that were trained with different seeds. In their column, round brackets hold the "
    "lowest and the highest of them.",
    "A difference is called clear if it goes beyond the intervals of all of {}.",
    "Divergence, same answers and gap are means over the distances to each of {}. In their own column stands how far each is from "
    "the others: a model that was retrained once more would be about as far.",
)
INTERVALS = (
    "Brackets hold 95 % intervals over the rows measured: exact for shares, DeLong's for the AUC, bootstrap for F1, divergence and "
    "information. Where all rows agree a bootstrap has no width. No interval says what another seed would have given."
)
INFORMATION = (
    "Estimates of information from samples are biased upwards. Their intervals are corrected for this bias, so an estimate can lie "
    "above its own interval. A value below the next line, which is for data without any information, cannot be told from zero."
)
LOSS_ATTACK = (
    "The loss attack compares forget rows with test rows of the same labels. With fewer than 100 of these, 1 % of false alarms "
    "means none at all; with fewer than 1,000, so does 0.1 %."
)
LIMITS = [
    "This is a measurement of one run on the rows at hand. It does not prove that the model holds nothing of what was forgotten.",
    "Only outputs are attacked here, and by simple attacks. A stronger attack, or one that reads the weights, may find more. "
    "The command hf-unlearn audit also tests features, weights and relearning.",
    "Outputs that look right can hide weights that still know the forgotten data. The relearning steps show this, if they were "
    "measured.",
    "Equal averages do not mean that every single row was forgotten.",
    "Whoever also holds the original can compare the two models on rows of their own, and find that some of them were probably "
    "forgotten (Chen et al., arXiv 2005.02205). Figures of a small forget set narrow such a guess further.",
]
ONE_DRAW = "One retrained model is one draw: models that are retrained with other seeds differ among themselves."
RANDOM_START = (
    "{} started from random weights, and whether the original did is not known. If the original was fine-tuned from a pretrained "
    "base, {} no yardstick: name that base in `base_model`."
)
PATCH_LIMIT = (
    "The update is a patch: an adapter beside its base. The base is unchanged and still knows everything. Whoever has both has the "
    "original, so publishing a patch is no erasure. To erase, merge the patch into the weights and do not publish the base."
)


def request_of(run: Mapping[str, Any]) -> str:
    """Return what was to be forgotten, in words: as it was recorded, or by the classes or the attribute of the run."""
    if run.get("request"):
        return str(run["request"])
    if run.get("attribute"):
        return f"the influence of '{run['attribute']}'"
    names = run.get("forgotten_labels") or run.get("forgotten_classes") or []
    return f"{'class' if len(names) == 1 else 'classes'} {', '.join(map(str, names))}" if names else ""


def notes(report: ReportData) -> list[str]:
    """Return sentences that say how to read the figures of this report."""
    attacked = any("loss_attack_auc" in measured for measured in report.models.values())
    return [
        *(_of_reading_the_yardstick(report) if "retrained" in report.models else []),
        INTERVALS,
        *([INFORMATION] if report.information else []),
        *([LOSS_ATTACK] if attacked else []),
        "The table holds many figures: some intervals miss their true value by chance.",
    ]


def _of_reading_the_yardstick(report: ReportData) -> list[str]:
    told = [] if report.void else [YARDSTICK.format(report.yardstick, "them" if report.retrained else "it")]
    column, *compared = (sentence.format(report.yardstick) for sentence in SEVERAL)
    return [*told, *([column] if report.retrained else []), *(compared if report.retrained and told else [])]


def limits(report: ReportData) -> list[str]:
    """Return sentences that say what the figures of this report do not prove."""
    return [
        *([PATCH_LIMIT] if is_patch(report.run) else []),
        *LIMITS,
        *(_of_the_yardstick(report) if "retrained" in report.models else []),
    ]


def _of_the_yardstick(report: ReportData) -> list[str]:
    """Return sentences about the retrained models, and say which base they started from if the report knows."""
    one_draw = [] if report.retrained else [ONE_DRAW]
    subject = f"T{report.yardstick[1:]}"
    retraining = report.run.get("retraining") or {}
    base = retraining.get("base", "")
    if base is None:
        are = "these retrained models are" if report.retrained else "this retrained model is"
        return [*one_draw, RANDOM_START.format(subject, are)]
    if isinstance(base, Mapping):
        name, commit = str(base.get("id") or ""), str(base.get("revision") or "")
        place = name if HUB_ID.fullmatch(name) else "a folder"  # a report may be anybody's file
        at = f" at commit {commit}" if COMMIT.fullmatch(commit) else ""
        return [*one_draw, f"{subject} started from the base of the original, in {shown(place)}{at}."]
    return one_draw


def reading(report: ReportData) -> list[str]:
    """Return one sentence for each measure, which compares the unlearned model with the retrained ones or with the original."""
    retrained = "retrained" in report.models and not report.void
    other, owner = ("retrained", report.of_yardstick) if retrained else ("original", "the original's")
    average = " on average" if retrained and report.retrained else ""
    ours, theirs = (report.intervals.get(name, {}) for name in ("unlearned", other))
    out = []
    for measure, (subject, above, below) in SENTENCES.items():
        if measure not in ours or measure not in theirs:
            continue
        unit = "" if measure == "loss_attack_auc" else " %"
        a, b = (f"{cell(measure, report.models[n].get(measure))}{unit}" for n in ("unlearned", other))
        if ours[measure][0] > theirs[measure][1]:
            verdict = f"clearly higher: {above.format(report.yardstick)}" if retrained else "clearly higher"
        elif ours[measure][1] < theirs[measure][0]:
            meaning = "the original's was lower still" if report.began_lower(measure) else below
            verdict = f"clearly lower: {meaning}" if retrained else "clearly lower"
        else:
            verdict = "not told apart by these rows"
        out.append(f"{subject} is {a}, {owner} {b}{average}: {verdict}.")
    steps = {n: report.relearned(n) for n in ("unlearned", other) if "relearning_steps" in report.models.get(n, {})}
    if len(steps) == 2:
        theirs_after = f", in {report.yardstick} after {steps[other]}{average}" if retrained else ""
        ours_after = f"back after {steps['unlearned']} steps of teaching"
        still = "still there, before any teaching"
        out.append(f"The class is {still if steps['unlearned'] == '0' else ours_after}{theirs_after}.")
    apart = report.models.get("retrained", {}).get("js_to_retrained")
    if average and apart is not None:
        ours_apart = cell("js_to_retrained", report.models["unlearned"].get("js_to_retrained"))
        out.append(
            f"Outputs on the forget set are {ours_apart} nats from {report.yardstick} on average, and these "
            f"{cell('js_to_retrained', apart)} nats from each other."
        )
    if report.void:
        out.append(f"There is no yardstick: {report.void}.")
    elif not retrained:
        out.append("No retrained model was measured: what the figures should be is not known, only what changed.")
    return out

"""Say in plain words what the figures of a report mean, how to read them, and what they do not prove."""

from collections.abc import Mapping
from typing import Any

from ...utils.hub_names import COMMIT, HUB_ID
from ...utils.safe_text import shown
from .report_data import ReportData
from .table import cell

# Measure -> subject of the sentence, and what a value above and a value below the retrained model's means.
SENTENCES = {
    "forget_accuracy": ("Accuracy on the forget set", "it still remembers", "it over-forgets"),
    "test_forgotten_accuracy": ("Test accuracy on the forgotten classes", "it still remembers", "it over-forgets"),
    "retain_accuracy": ("Accuracy on the retain set", "nothing was lost there", "kept data suffered"),
    "test_accuracy": ("Test accuracy", "it does more than the retrained model", "the model suffered"),
    "membership_attack": ("The share that the entropy attack calls members", "it still remembers", "it over-forgets"),
    "loss_attack_auc": ("The AUC of the loss attack", "it still remembers", "it over-forgets"),
    "bias_following": ("The share that follows the pattern", "the bias is still there", "it avoids the pattern"),
}
YARDSTICK = "Read every figure against the retrained model: distance to it is what counts, in either direction."
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
    "The retrained model started from random weights, and whether the original did is not known. If the original was fine-tuned "
    "from a pretrained base, this retrained model is no yardstick: name that base in `base_model`."
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
        *([YARDSTICK] if "retrained" in report.models and not report.void else []),
        INTERVALS,
        *([INFORMATION] if report.information else []),
        *([LOSS_ATTACK] if attacked else []),
        "The table holds many figures: some intervals miss their true value by chance.",
    ]


def limits(report: ReportData) -> list[str]:
    """Return sentences that say what the figures of this report do not prove."""
    patch = report.run.get("patch") or report.run.get("adapter")
    return [
        *([PATCH_LIMIT] if patch else []),
        *LIMITS,
        *(_of_the_yardstick(report) if "retrained" in report.models else []),
    ]


def _of_the_yardstick(report: ReportData) -> list[str]:
    """Return sentences about the retrained model, and say which base it started from if the report knows."""
    retraining = report.run.get("retraining") or {}
    base = retraining.get("base", "")
    if base is None:
        return [ONE_DRAW, RANDOM_START]
    if isinstance(base, Mapping):
        name, commit = str(base.get("id") or ""), str(base.get("revision") or "")
        place = name if HUB_ID.fullmatch(name) else "a folder"  # a report may be anybody's file
        at = f" at commit {commit}" if COMMIT.fullmatch(commit) else ""
        return [ONE_DRAW, f"The retrained model started from the base of the original, in {shown(place)}{at}."]
    return [ONE_DRAW]


def reading(report: ReportData) -> list[str]:
    """Return one sentence for each measure, which compares the unlearned model with the retrained one or with the original."""
    retrained = "retrained" in report.models and not report.void
    other, owner = ("retrained", "retrained model") if retrained else ("original", "original")
    ours, theirs = (report.intervals.get(name, {}) for name in ("unlearned", other))
    out = []
    for measure, (subject, above, below) in SENTENCES.items():
        if measure not in ours or measure not in theirs:
            continue
        unit = "" if measure == "loss_attack_auc" else " %"
        a, b = (f"{cell(measure, report.models[n].get(measure))}{unit}" for n in ("unlearned", other))
        if ours[measure][0] > theirs[measure][1]:
            verdict = f"clearly higher: {above}" if retrained else "clearly higher"
        elif ours[measure][1] < theirs[measure][0]:
            meaning = "the original's was lower still" if report.began_lower(measure) else below
            verdict = f"clearly lower: {meaning}" if retrained else "clearly lower"
        else:
            verdict = "not told apart by these rows"
        out.append(f"{subject} is {a}, the {owner}'s {b}: {verdict}.")
    steps = {n: report.relearned(n) for n in ("unlearned", other) if "relearning_steps" in report.models.get(n, {})}
    if len(steps) == 2:
        theirs_after = f", in the retrained model after {steps[other]}" if retrained else ""
        ours_after = f"back after {steps['unlearned']} steps of teaching"
        still = "still there, before any teaching"
        out.append(f"The class is {still if steps['unlearned'] == '0' else ours_after}{theirs_after}.")
    if report.void:
        out.append(f"There is no yardstick: {report.void}.")
    elif not retrained:
        out.append("No retrained model was measured: what the figures should be is not known, only what changed.")
    return out

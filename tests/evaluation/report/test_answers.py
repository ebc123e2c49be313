"""Five answers on top of a report, for each way in which an unlearning can end."""

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.answers import BAD, GOOD, QUESTIONS, STEP, UNSURE
from hf_unlearn.evaluation.report.answers import answers
from hf_unlearn.evaluation.report.strips import strips
from hf_unlearn.training.outcome import UNCHANGED

ROWS = 145


def limits(share, rows=ROWS):
    """A rough 95 % interval of a share, wide enough at 0 and 1."""
    half = 2 * max((share * (1 - share) / rows) ** 0.5, 1 / rows)
    return [max(share - half, 0.0), min(share + half, 1.0)]


def report(
    after=0.0, never=0.0, before=1.0, kept=0.98, kept_never=0.98, auc=(0.6, 0.5, 0.5), kind="class", many=3, **run
):
    """A report on a class of 145 rows, of an original that knows 98 % of the rest."""
    shares = {
        "original": (before, 0.98, auc[0]),
        "unlearned": (after, kept, auc[1]),
        "retrained": (never, kept_never, auc[2]),
    }
    if never is None:
        del shares["retrained"]
    models = {
        name: {"forget_accuracy": f, "test_kept_accuracy": k, "retain_accuracy": k, "loss_attack_auc": a}
        for name, (f, k, a) in shares.items()
    }
    intervals = {n: {m: limits(v) for m, v in measures.items()} for n, measures in models.items()}
    each = {f"retrained-{i}": dict(models["retrained"]) for i in range(many)} if never is not None and many > 1 else {}
    outcome = run.pop("outcome", {})
    return UnlearningReport(
        models=models, intervals=intervals, retrained=each, outcome=outcome, seconds={"unlearning": 10.0, "retraining": 50.0, "ratio": 0.2},
        run={"kind": kind, "rows": {"forget": ROWS}, "about": {}, **run},
    )  # fmt: skip


def told(given):
    found = answers(given)
    assert tuple(a.question for a in found) == QUESTIONS
    assert all(a.text.endswith(".") and a.short for a in found)
    return {a.question: a for a in found}


def forgot(given):
    return told(given)["Did it forget?"]


def test_a_forgotten_class():
    found = told(report())
    assert [a.light for a in found.values()] == [GOOD, GOOD, GOOD, GOOD, STEP]
    assert found["Did it forget?"].short == "Yes"
    assert found["Did it forget?"].text == ("Before: 100 % recognised. After: 0 %. 3 models that never saw them: 0 %.")
    assert "3 models trained without them, on 145 rows" in found["How sure is that?"].text
    assert "hf-unlearn audit" in found["What next?"].text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_only": True}, "Only the last layer was changed"),
        ({"patch": {"kind": "lora"}}, "its base still knows everything"),
        (
            {"about": {"loads_with": "hf_unlearn.X.from_pretrained"}},
            "with transformers alone, this model is the original",
        ),
    ],
)
def test_a_hidden_class_is_not_called_forgotten(changes, words):
    found = told(report(**changes))
    assert found["Did it forget?"].short == "In its answers only"
    assert found["Did it forget?"].light == UNSURE
    assert found["What remains?"].light == BAD
    assert found["What remains?"].short == "Hidden, not gone"
    assert words in found["What remains?"].text


def test_a_class_that_comes_back_at_once_is_hidden():
    given = report()
    for name, steps in (("original", 0), ("unlearned", 2), ("retrained", 12)):
        given.models[name]["relearning_steps"] = steps
    for each in given.retrained.values():
        each["relearning_steps"] = 12
    given.relearning = {"unlearned": [0.0, 0.5, 0.9], **{name: [0.0] * 12 + [0.9] for name in given.retrained}}
    remains = told(given)["What remains?"]
    assert remains.short == "Hidden, not gone"
    assert "back after 2 steps of teaching, in a model that never saw them after 12" in remains.text


def test_nothing_changed_is_said_in_these_words():
    found = told(report(after=1.0, outcome={"warnings": [UNCHANGED]}, auc=(0.6, 0.6, 0.5)))
    assert found["Did it forget?"].light == BAD
    assert found["Did it forget?"].text == (
        "Before: 100 % recognised. After: 100 %. Nothing changed. 3 models that never saw them: 0 %."
    )
    assert found["What remains?"].short == "Everything"
    assert found["What next?"].short == "Run it again"


def test_figures_that_are_all_as_before_are_nothing_changed_without_a_warning():
    given = report(after=1.0, never=0.985, auc=(0.5, 0.5, 0.5), kind="samples")
    text = forgot(given).text
    assert text.startswith("Before: 100 % answered right. After: 100 %. Nothing changed.")
    assert text.endswith("Too few examples, or too little difference, to tell these apart.")


def test_a_damaged_model():
    found = told(report(kept=0.7))
    assert found["What was kept?"].short == "Damaged"
    assert found["What was kept?"].light == BAD
    assert "Before: 98 % of unseen rows to keep answered right. After: 70 %." in found["What was kept?"].text
    assert "Keep the original" in found["What next?"].text


def test_rows_that_are_still_known():
    assert forgot(report(after=0.7)).short == "Only in part"
    assert forgot(report(after=0.3)).short == "Mostly"
    still = forgot(report(after=0.99, auc=(0.6, 0.59, 0.5)))
    assert (still.short, still.light) == ("No", BAD)


def test_too_little_difference_to_tell():
    given = report(before=0.985, after=0.98, never=0.985, auc=(0.52, 0.51, 0.5), kind="samples")
    found = told(given)
    assert found["Did it forget?"].short == "Cannot tell"
    assert "Too few examples" in found["Did it forget?"].text
    assert found["How sure is that?"].light == UNSURE
    assert "retrained models" in found["What next?"].text


def test_a_figure_that_is_nearer_to_the_originals_is_not_called_forgotten():
    given = report(before=1.0, after=0.93, never=0.74, auc=(0.6, 0.59, 0.5), kind="samples")
    for name, value in (("original", 1.0), ("unlearned", 0.93), ("retrained", 0.74)):
        given.intervals[name]["forget_accuracy"] = limits(value, 40)  # wide intervals, which all but touch
    found = forgot(given)
    assert found.light != GOOD
    assert found.short in ("Cannot tell", "Only in part")


def test_more_than_retraining_forgets():
    found = told(report(before=1.0, after=0.3, never=0.9, auc=(0.6, 0.2, 0.5), kind="samples"))
    assert found["Did it forget?"].short == "Too much"
    assert "unnaturally unsure about these examples" in found["What remains?"].text


def test_without_a_yardstick_nobody_is_sure():
    found = told(report(never=None, outcome={"target_reached": True}))
    assert found["Did it forget?"].short == "In its answers, yes"
    assert found["How sure is that?"].light == UNSURE
    assert "--retrain 3" in found["What next?"].text
    assert forgot(report(never=None, after=0.4, outcome={"target_reached": False})).light == BAD
    assert forgot(report(never=None, kind="samples")).short == "Not known"


def test_a_retrained_model_that_does_not_fit_is_no_yardstick():
    given = report(kept_never=0.5)
    found = told(given)
    assert given.void
    assert found["How sure is that?"].light == BAD
    assert "train_epochs" in found["What next?"].text
    assert all(strip.never is None for strip in strips(given))


def test_one_yardstick_or_few_rows_make_it_less_sure():
    assert told(report(many=1))["How sure is that?"].short == "Fairly"
    few = report()
    few.run["rows"] = {"forget": 9}
    assert told(few)["How sure is that?"].short == "Few examples"


def test_a_run_that_failed_is_never_called_a_success():
    found = told(report(outcome={"warnings": ["the learning rate was not a number"]}))
    assert found["Did it forget?"].light == BAD
    assert "Do not take this" in found["What next?"].text


def test_retraining_that_is_cheaper_is_recommended():
    given = report()
    given.seconds["ratio"] = 1.4
    assert told(given)["What next?"].short == "Retrain instead"


def of_attribute(after, floor=0.01):
    """A report on what the answers tell about a column."""
    given = report(never=None)
    for name, value in (("original", 0.4), ("unlearned", after)):
        del given.intervals[name]["forget_accuracy"]
        given.information[name] = {
            "value": value,
            "low": value - 0.02,
            "high": value + 0.02,
            "null_high": floor,
            "conditional": True,
        }
    given.run["attribute"] = "<b>race</b>"
    return given


def test_an_attribute_is_judged_by_what_the_answers_tell_about_it():
    found = told(of_attribute(0.02))
    assert found["Did it forget?"].short == "Yes"
    assert "Before: 100 % of what the answers tell about '<b>race</b>'. After: 5 %." in found["Did it forget?"].text
    assert "retrain" not in found["What next?"].text
    assert forgot(of_attribute(0.2)).short == "In part"
    assert forgot(of_attribute(0.41)).short == "No"
    assert forgot(of_attribute(0.02, floor=0.5)).short == "Cannot tell"


def test_a_pattern_is_judged_by_the_answers_that_follow_it():
    given = report(after=1.0, never=0.6, kind="samples")
    for name, share in (("original", 0.4), ("unlearned", 0.02), ("retrained", 0.01)):
        given.models[name]["bias_following"] = share
        given.intervals[name]["bias_following"] = limits(share, 1000)
    assert forgot(given).text.startswith("Before: 40 % follow the pattern. After: 2 %.")
    assert told(given)["What remains?"].short == "Nothing was found"  # the rows themselves may be known
    assert strips(given)[0].title == "answers that follow the pattern"


def test_a_report_without_an_unlearned_model_has_no_answers():
    assert answers(UnlearningReport(models={})) == []
    assert strips(UnlearningReport(models={})) == []


@pytest.mark.parametrize(
    ("after", "never", "short"),
    [(0.03, 0.0, "Yes"), (0.60, 0.50, "Mostly"), (0.45, 0.50, "Yes"), (0.89, 0.78, "Cannot tell")],
)
def test_intervals_that_overlap_do_not_make_a_figure_the_same(after, never, short):
    """145 rows have wide intervals. A figure must have come near the yardstick's."""
    assert forgot(report(after=after, never=never, before=0.96 if never else 1.0)).short == short


def attribute_report(after, **outcome):
    given = report(kind=None, many=1, never=None, attribute="colour", outcome=outcome)
    given.information = {
        name: {"value": value, "low": value - width, "high": value + width, "null_high": 0.05}
        for name, value, width in (("original", 0.10, 0.03), ("unlearned", *after))
    }
    return given


@pytest.mark.parametrize(
    ("after", "short", "light"),
    [
        ((0.02, 0.02), "Yes", GOOD),
        ((0.095, 0.05), "Cannot tell", UNSURE),  # neither chance nor the original can be ruled out
        ((0.095, 0.02), "No", BAD),
        ((0.06, 0.009), "In part", UNSURE),
    ],
)
def test_what_the_answers_tell_about_an_attribute(after, short, light):
    found = forgot(attribute_report(after))
    assert (found.short, found.light) == (short, light)


def test_a_failed_run_has_forgotten_nothing():
    warnings = ["retained accuracy fell by 40.0 points"]
    assert forgot(attribute_report((0.02, 0.02), warnings=warnings)).short == "The run failed"
    found = forgot(report(never=None, outcome={"target_reached": True, "warnings": warnings}))
    assert (found.short, found.light) == ("The run failed", BAD)

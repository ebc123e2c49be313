"""The picture below the answers of a report."""

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.strips import strips
from tests.evaluation.report.test_answers import report


def test_the_picture_has_a_line_for_each_question_and_the_span_of_the_yardsticks():
    given = report()
    given.retrained["retrained-0"]["forget_accuracy"] = 0.1
    found = strips(given)
    assert [strip.title.split(",")[0] for strip in found] == [
        "rows to forget", "other rows", "attack: right guesses who was in", "time",
    ]  # fmt: skip
    assert found[0].span == (0.0, 10.0)
    assert found[0].cells() == ["100 %", "0 %", "0 %"]
    assert found[-1].cells() == ["–", "20 %", "100 %"]


def test_relearning_is_shown_in_steps_and_says_more_than_were_tried():
    given = report()
    for name, steps in (("original", 0), ("unlearned", 5), ("retrained", 200)):
        given.models[name]["relearning_steps"] = steps
    for each in given.retrained.values():
        each["relearning_steps"] = 200
    given.relearning = {"unlearned": [0.0] * 6, **{name: [0.0] * 200 for name in given.retrained}}
    (line,) = (strip for strip in strips(given) if strip.title == "steps until it is back")
    assert line.cells() == ["0", "5", "more than 199"]
    assert line.scale == (0.0, 200)


def test_a_report_without_an_unlearned_model_has_no_picture():
    assert strips(UnlearningReport(models={})) == []

"""Five answers on top of an audit, for every verdict."""

import dataclasses
import math

import pytest

from hf_unlearn.evaluation.answers import BAD, GOOD, QUESTIONS, STEP, UNSURE
from hf_unlearn.evaluation.audit.answers import FORGOTTEN, STEPS, answers, strips
from hf_unlearn.evaluation.audit.verdicts import (
    DAMAGED,
    HIDDEN,
    LESS,
    MEANING,
    MORE,
    SAME,
    UNCHANGED,
    UNCLEAR,
    VOID,
)
from tests.evaluation.audit.test_page import line

GOOD_LINES = [line(key) for key in ("forget_accuracy", "prototype", "inner_prototype", "relearning", "test_accuracy")]
RUN = {"retrained": 3}


def told(verdict, lines=GOOD_LINES, because=(), run=RUN):
    found = answers(verdict, lines, because, run)
    assert tuple(a.question for a in found) == QUESTIONS
    assert all(a.text.endswith(".") and a.short for a in found)
    return dict(zip(("forgot", "sure", "remains", "kept", "next"), found, strict=True))


def with_line(key, **changes):
    spoiled = dataclasses.replace(line(key, 0.3, "different"), **changes)
    return [spoiled, *(one for one in GOOD_LINES if one.key != key)]


def test_every_verdict_has_answers():
    assert FORGOTTEN.keys() == STEPS.keys() == MEANING.keys()
    for verdict in MEANING:
        assert told(verdict)["next"].light == STEP


def test_an_accepted_model():
    found = told(SAME)
    assert [a.light for a in found.values()] == [GOOD, GOOD, GOOD, GOOD, STEP]
    assert found["forgot"].text.startswith("Before: 90 % of the rows to forget answered right. After: 50 %. 2 models")
    assert "5 of 5 lines of evidence are as in 3 retrained models" in found["sure"].text


def test_a_hidden_model_names_what_was_found_inside():
    found = told(HIDDEN, with_line("prototype"), ["prototype"])
    assert (found["forgot"].short, found["forgot"].light) == ("In its answers only", BAD)
    assert found["remains"].short == "Hidden, not gone"
    assert "words of prototype" in found["remains"].text
    assert "of the way from retrained models to the original is left" in found["remains"].text


def test_a_patch_whose_answers_still_know_is_not_said_to_have_forgotten_in_them():
    found = told(HIDDEN, [*with_line("forget_accuracy"), line("adapter", 0.5, "different")], ["adapter"])
    assert (found["forgot"].short, found["forgot"].light) == ("No", BAD)


@pytest.mark.parametrize(
    ("verdict", "short", "light"), [(LESS, "It is still there", BAD), (MORE, "A trace of the removal", UNSURE)]
)
def test_what_remains_in_the_answers(verdict, short, light):
    remains = told(verdict, with_line("forget_accuracy"), ["forget_accuracy"])["remains"]
    assert (remains.short, remains.light) == (short, light)
    assert ("An attacker could notice" in remains.text) == (verdict == MORE)


def test_a_damaged_model():
    lost = {"difference": -0.3, "low": -0.31, "high": -0.28, "unlearned": 0.2}
    found = told(DAMAGED, with_line("test_accuracy", **lost), ["test_accuracy"])
    assert (found["kept"].short, found["kept"].light) == ("Damaged", BAD)
    assert "Keep the original" in found["next"].text


def test_nothing_changed_is_said_in_these_words():
    found = told(UNCHANGED)
    assert "After: 50 %. Nothing changed. 2 models" in found["forgot"].text
    assert told(UNCHANGED, [])["forgot"].text == "Nothing changed."
    assert found["remains"].short == "Everything"


def test_what_cannot_be_told():
    found = told(UNCLEAR, [dataclasses.replace(one, telling=False) for one in GOOD_LINES])
    assert found["forgot"].short == "Cannot tell"
    assert found["sure"].light == UNSURE
    assert "the original itself cannot be told from a retrained model" in found["sure"].text
    assert found["remains"].short == "Not known"
    assert told(VOID)["sure"].light == BAD
    assert told(UNCLEAR, run={})["sure"].short == "Not very"


def test_the_picture_shows_relearning_in_steps_and_the_span_of_retrained_models():
    found = {strip.title: strip for strip in strips(GOOD_LINES)}
    assert list(found) == [
        "rows to forget, answered right", "inside: brought back by ten examples", "steps until it is back", "other rows, answered right",
    ]  # fmt: skip
    steps = found["steps until it is back"]
    assert steps.before == pytest.approx(math.exp(0.9) - 1)
    assert steps.span == pytest.approx((math.exp(0.48) - 1, math.exp(0.52) - 1))
    assert found["rows to forget, answered right"].span == (48.0, 52.0)
    assert strips([]) == []


def test_figures_that_prove_nothing_are_not_green():
    found = told(VOID)
    assert (found["remains"].short, found["remains"].light) == ("Not known", UNSURE)
    assert (found["kept"].short, found["kept"].light) == ("Not known", UNSURE)


def test_a_model_that_only_keeps_too_much_is_not_said_to_remember():
    lines = [
        dataclasses.replace(one, group="utility") if one.key == "test_accuracy" else one
        for one in with_line("test_accuracy")
    ]
    found = told(LESS, lines, ["test_accuracy"])["forgot"]
    assert (found.short, found.light) == ("Not as retraining does", UNSURE)

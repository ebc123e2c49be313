"""The order of the reasons for a verdict, and its words."""

import pytest

from hf_unlearn.evaluation.audit.evidence import Evidence
from hf_unlearn.evaluation.audit.verdicts import (
    DAMAGED,
    HIDDEN,
    LESS,
    MORE,
    SAME,
    SPECS,
    UNCLEAR,
    decide,
    describe,
    limits,
    missing_power,
    remaining,
    say_remaining,
)


def evidence(key, group, side, telling=True, unlearned=0.5):
    out = Evidence(key, "", group, 0.9, unlearned, [0.5], difference=0.3 * side, telling=telling)
    out.result = "different" if side else "equivalent"
    return out


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, SAME),
        ({"forget_accuracy": 1}, LESS),
        ({"membership": 1, "features": 1}, LESS),
        ({"membership": -1, "test_accuracy": -1}, MORE),
        ({"features": 1}, HIDDEN),
        ({"test_accuracy": -1, "forget_accuracy": 1}, DAMAGED),
    ],
)
def test_the_order_of_reasons(changed, verdict):
    groups = {"forget_accuracy": "memory", "membership": "memory", "test_accuracy": "utility", "features": "inside"}
    lines = [evidence(key, group, changed.get(key, 0)) for key, group in groups.items()]
    assert decide(lines, True)[0] == verdict
    if verdict == SAME:
        assert decide(lines, False)[0] == UNCLEAR
        for one in lines:
            one.telling = False
        assert decide(lines, True)[0] == UNCLEAR


@pytest.mark.parametrize(
    ("features", "telling", "verdict"), [(0, True, UNCLEAR), (0, False, HIDDEN), (1, True, HIDDEN)]
)
def test_relearning_faster_alone_is_no_proof_of_hiding_where_features_would_show_it(features, telling, verdict):
    lines = [evidence("relearning", "depth", -1), evidence("features", "inside", features, telling=telling)]
    found = decide(lines, True)
    assert found[0] == verdict
    assert "relearning" in found[1]
    told = [sentence for sentence in limits(3, lines, {"retain": 1}, True) if "no proof of hiding" in sentence]
    assert bool(told) == (verdict == UNCLEAR)


@pytest.mark.parametrize(
    ("result", "difference", "telling", "words"),
    [
        ("unknown", None, False, "without a retrained model there is nothing to compare it with"),
        ("different", 0.3, True, SPECS["forget_accuracy"].above),
        ("different", -0.3, True, SPECS["forget_accuracy"].below),
        ("unclear", 0.1, True, "too uncertain, or too near the margin, to say"),
        ("equivalent", 0.0, True, "as retraining"),
        ("equivalent", 0.0, False, "as retraining, but with no power here: the original hardly differs from it"),
    ],
)
def test_each_result_has_its_words(result, difference, telling, words):
    line = Evidence("forget_accuracy", "", "memory", 0.9, 0.5, difference=difference, result=result, telling=telling)
    assert describe(line) == words


def test_what_was_to_be_kept_needs_no_power():
    assert describe(evidence("test_accuracy", "utility", 0, telling=False)) == "as retraining"


def test_limits_name_the_lines_that_have_power_and_how_many_have_none():
    lines = [evidence("membership", "memory", 0), evidence("features", "inside", 0, telling=False)]
    for line in lines:
        line.title = SPECS[line.key].title
    lines.append(evidence("test_accuracy", "utility", 0, telling=False))
    (sentence,) = [s for s in limits(2, lines, {"retain": 5}, True) if "power" in s]
    assert sentence.startswith("1 of 2 lines about what was to be forgotten has power here: ")
    assert SPECS["membership"].title in sentence
    lines[0].telling = False
    (sentence,) = [s for s in limits(2, lines, {"retain": 5}, True) if "power" in s]
    assert sentence.startswith("0 of 2 lines about what was to be forgotten have power here")
    assert not [s for s in limits(0, lines, {"retain": 5}, True) if "power" in s]


def test_titles_are_clear_without_the_other_lines():
    """An audit shows only the lines that its sets allow."""
    assert not [spec.title for spec in SPECS.values() if "the same" in spec.title]


def test_passing_means_little_where_the_original_would_pass_too():
    memory, deep = evidence("membership", "memory", 0), evidence("features", "inside", 0)
    assert missing_power([memory, deep]) == []
    (outputs,) = missing_power([evidence("identical", "memory", 0), deep])  # equal outputs say nothing of what is known
    assert outputs.startswith("By its outputs")
    (behind,) = missing_power([memory, evidence("unchanged", "inside", 0)])
    assert behind.startswith("Behind the outputs (features, prototypes, relearning) no line tells")
    of_class = evidence("class_probe", "inside", 0, telling=False)
    (behind,) = missing_power([memory, deep, of_class])
    assert "only one line" in behind
    assert "two are needed" in behind
    assert missing_power([memory, deep, of_class, evidence("single_row", "inside", 0)]) == []


def test_what_was_not_given_is_a_limit():
    sets = {"forget": 10, "test": 10}
    words = {k: " ".join(limits(k, [], {**sets, "retain": 10}, True)) for k in (0, 1, 3)}
    assert "There is no retrained model to compare with" in words[0]
    assert "One retrained model was given" in words[1]
    assert "retrained model was given" not in words[3]
    assert "retain set" not in words[3]
    assert any("No retain set was given" in sentence for sentence in limits(3, [], sets, True))
    assert any("no random draw" in sentence for sentence in limits(3, [], sets, False))
    assert limits(3, [], sets, True)[-1].endswith("that brings the forgotten back.")


def test_what_remains_is_the_median_way_from_retrained_models_to_the_original():
    lines = [evidence(key, "inside", 0, unlearned=value) for key, value in
             (("features", 0.5), ("prototype", 0.6), ("single_row", 0.9), ("class_probe", 0.7))]  # fmt: skip
    for line in lines:
        line.expected = 0.5  # the original has 0.9
    assert remaining(lines) == (pytest.approx(0.375), 4)  # of 0, 0.25, 1 and 0.5
    lines[2].telling = False
    assert remaining(lines) == (pytest.approx(0.25), 3)
    assert say_remaining(lines).startswith("In its features 25% of the way")
    assert remaining([evidence("forget_accuracy", "memory", 0), evidence("relearning", "depth", 0)]) is None
    lines[1].unlearned = lines[3].unlearned = 0.45
    assert say_remaining(lines).startswith("In its features nothing of the way")
    assert say_remaining([]) == ""


@pytest.mark.parametrize(("expected", "spread"), [(0.0, 0.01), (0.05, 0.01), (0.4, 0.04), (-0.4, 0.04), (0.9, 0.045)])
def test_seeds_are_taken_to_move_a_small_share_of_hits_by_less(expected, spread):
    assert SPECS["prototype"].spread_at(expected) == pytest.approx(spread)
    assert SPECS["features"].spread_at(expected) == SPECS["features"].default_spread

"""The figures of bias, by hand and with the functions for single figures."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from hf_unlearn import JiT
from hf_unlearn.evaluation.report.bias_pattern import Pattern, bias_measures, read_pattern
from hf_unlearn.metrics.functional import fairness
from hf_unlearn.models.prediction import predict
from tests.support.data import data_for
from tests.support.runs import trainer_for

from .support import HOSTILE_NAME


def hand_made():
    generator = np.random.default_rng(3)
    y = generator.integers(4, size=200)
    values = generator.choice(["present", "other", "absent"], size=200)
    answers = np.where((values == "present") & (generator.random(200) < 0.4), 3, y)
    return torch.tensor(np.where(generator.random(200) < 0.1, 3, answers)), torch.tensor(y), values.tolist()


def test_bias_figures_are_those_of_fairness():
    answers, y, values = hand_made()
    pattern = Pattern("pattern", {"present": 3})
    found = bias_measures(answers, y, values, pattern)
    mapping = {"present": 3, "other": None, "absent": None}
    has = np.array(values) == "present"
    aligned, conflicting = fairness.aligned_conflicting_accuracy(answers, y, values, mapping)
    rates, _ = fairness.false_positive_rates(answers, y, has.tolist(), positive=3)
    expected = {
        "bias_following": fairness.bias_following(answers, y, values, mapping),
        "bias_without": rates[False],
        "accuracy_with_pattern": fairness.group_accuracies(answers, y, has.tolist())[True],
        "accuracy_without_pattern": fairness.group_accuracies(answers, y, has.tolist())[False],
        "aligned_minus_conflicting": aligned - conflicting,
        "worst_group_accuracy": fairness.worst_group_accuracy(answers, y, values)[0],
        "cramers_v": fairness.cramers_v(answers, values),
    }
    assert {name: value for name, (value, _, _) in found.items()} == pytest.approx(expected)
    assert all(low <= value <= high for value, low, high in found.values())
    assert rates[True] == pytest.approx(expected["bias_following"])
    against, hits = has & (y.numpy() != 3), ((answers == 3) & (y != 3)).numpy() & has
    exact = binomtest(int(hits.sum()), int(against.sum())).proportion_ci(0.95, method="exact")
    assert found["bias_following"][1:] == pytest.approx((exact.low, exact.high))


def test_several_labels_pointed_to_are_counted_as_trials_and_rows():
    answers, y, values = hand_made()
    found = bias_measures(answers, y, values, Pattern("pattern", {"present": 3, "other": 0}))
    trials = hits = 0
    for value, (label, source) in itertools.product(range(200), ((3, "present"), (0, "other"))):
        if values[value] != source and y[value] != label:
            trials, hits = trials + 1, hits + int(answers[value] == label)
    assert found["bias_without"][0] == pytest.approx(hits / trials)


def test_what_the_rows_do_not_define_is_left_out():
    y = torch.tensor([0, 1, 2, 0])
    found = bias_measures(y, y, ["present"] * 4, Pattern("pattern", {"present": 3}))
    assert set(found) == {"bias_following", "accuracy_with_pattern", "worst_group_accuracy"}


def test_bias_arguments_are_checked_by_name(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2))
    values = ["present" if i % 3 else "absent" for i in range(24)]
    test = data_for("vit", 24).add_column("pattern", values)
    own = trainer.processor
    assert read_pattern(None, None, own, test) is None
    for labels in ({"present": 3}, ["present=3"], ['{"present": 3}'], {"present": "3"}, {"present": "LABEL_3"}):
        assert read_pattern("pattern", labels, own, test) == Pattern("pattern", {"present": 3})
    for column, labels, data, words in (
        ("pattern", None, test, "`bias_labels` is missing"),
        (None, ["present=3"], test, "`bias_column` is missing"),
        ("pattern", ["present=3"], None, "Name one, with `test_split`"),
        ("colour", ["present=3"], test, "`bias_column='colour'` is not in the test set"),
        ("pattern", ["green=3"], test, "`bias_labels`: 'green' is no value of 'pattern'"),
        ("pattern", ["present=9"], test, "`bias_labels` points to no class of the model"),
        ("pattern", ["present=dog"], test, "`bias_labels` points to no class of the model"),
        ("pattern", {"present": None}, test, "`bias_labels` points to no class of the model"),
        ("pattern", ["present"], test, "is no list of value=label"),
        ("pattern", ["present=3"], test.filter(lambda r: r["label"] == 3), "never points away"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            read_pattern(column, labels, own, data)


def test_bias_rows_are_in_table_json_and_markdown(hostile_run):
    logits, labels = predict(hostile_run.models["retrained"], hostile_run.test, hostile_run.trainer.processor)
    found = bias_measures(
        logits.argmax(-1), labels, list(hostile_run.test["<b>|p"]), Pattern("<b>|p", {HOSTILE_NAME: 2})
    )
    for name, (value, low, high) in found.items():
        assert hostile_run.report.models["retrained"][name] == pytest.approx(value)
        assert hostile_run.report.intervals["retrained"][name] == pytest.approx([low, high])
    text = hostile_run.report.to_markdown()
    for words in ("bias following", "worst-group accuracy", "Cramér's V", "without the pattern", "(points)"):
        assert words in text
    assert re.search(r"\| \d+\.\d \[\d+\.\d, \d+\.\d\] \|", text)

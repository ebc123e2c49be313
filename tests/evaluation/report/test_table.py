"""Titles, units and cells of the table."""

import pytest

from hf_unlearn.evaluation.report.report_data import ReportData
from hf_unlearn.evaluation.report.table import cell, rows, title


@pytest.mark.parametrize(
    ("measure", "value", "limits", "text"),
    [
        ("forget_accuracy", 0.97149, [0.96, 0.98], "97.1 [96.0, 98.0]"),
        ("forget_accuracy", 1.0, None, "100.0"),
        ("forget_accuracy", None, None, "–"),
        ("loss_attack_auc", 0.51249, [0.4, 0.6], "0.512 [0.400, 0.600]"),
        ("js_to_retrained", 0.00015, None, "0.0001"),
        ("gap", 1.234, [0.5, 2.0], "1.23 [0.50, 2.00]"),
        ("relearning_steps", 12.0, None, "12"),
    ],
)
def test_shares_are_in_percent_and_other_figures_in_their_unit(measure, value, limits, text):
    assert cell(measure, value, limits) == text


def report(**changes):
    models = {
        "original": {"gap_measure": 1.0, "test_accuracy": 0.9, "loss_attack_auc": 0.7},
        "unlearned": {"test_accuracy": 0.8, "loss_attack_auc": 0.5},
    }
    return ReportData(models=models, gap={"unlearned": 2.0}, seconds={"unlearning": 1.25}, **changes)


def plain(found):
    """Title and cells of rows."""
    return [(row.title, row.cells) for row in found]


def test_only_measures_with_a_figure_have_a_row():
    assert plain(rows(report())) == [
        ("test accuracy (%)", ["90.0", "80.0"]),
        ("loss attack: AUC, 0.5 is chance", ["0.700", "0.500"]),
        ("gap to retrained, mean of 4 (points)", ["–", "2.00"]),
        ("seconds", ["–", "1.2"]),
    ]


def test_groups_and_information_name_the_attribute():
    information = {"value": 0.01, "low": 0.0, "high": 0.02, "null_high": 0.003, "conditional": True}
    found = plain(
        rows(
            report(
                run={"attribute": "age"},
                groups={"original": {"old": 0.5}, "unlearned": {"old": 0.25}},
                group_intervals={"unlearned": {"old": [0.1, 0.4]}},
                information={"original": information, "unlearned": information},
            )
        )
    )
    assert ("information on 'age' given the label (millinats)", ["10.00 [0.00, 20.00]"] * 2) in found
    assert ("the same, for outputs without any information", ["≤ 3.00"] * 2) in found
    assert ("accuracy where 'age' is old (%)", ["50.0", "25.0 [10.0, 40.0]"]) in found


def test_titles_name_the_column_and_the_labels_of_the_pattern_each_once():
    biased = report(run={"bias": {"column": "hair{label}", "labels": {"red": "cat", "fair": "cat", "dark": "dog"}}})
    assert title(biased, "bias_following") == (
        "bias following: 'cat', 'dog' where 'hair{label}' says so and the label is another (%)"
    )
    assert title(biased, "cramers_v") == "Cramér's V of answer and 'hair{label}'"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"classes": ["bird", "cat"], "forgotten_labels": ["cat"]}, "forgotten class cat"),
        ({"classes": ["bird", "cat", "dog"], "forgotten_labels": ["cat", "dog"]}, "forgotten classes cat, dog"),
        ({"forgotten_labels": ["LABEL_1"]}, "forgotten classes"),
        ({"classes": list("abcdef"), "forgotten_labels": list("abcd")}, "forgotten classes"),
    ],
)
def test_a_title_names_the_forgotten_classes_if_they_have_names(run, words):
    assert title(report(run=run), "test_forgotten_accuracy") == f"test accuracy, {words} (%)"


def test_a_class_that_did_not_come_back_took_more_steps_than_were_tried():
    steps = {"original": 0, "unlearned": 2, "retrained": 200}
    taught = ReportData(
        models={name: {"relearning_steps": n} for name, n in steps.items()},
        relearning={"unlearned": [0.0, 0.5, 0.9], "retrained": [0.0] * 200},
    )
    assert plain(rows(taught)) == [("steps until the class is relearned", ["0", "2", "more than 199"])]

"""Bias measures against counts by hand and Fairlearn."""

import numpy as np
import pytest
import torch

from hf_unlearn.metrics.functional.fairness import (
    aligned_conflicting_accuracy,
    bias_following,
    bias_labels,
    cramers_v,
    demographic_parity_gap,
    equalised_odds_gap,
    false_positive_rates,
    group_accuracies,
    label_groups,
    worst_group_accuracy,
)
from tests.metrics.cases import BIAS, COLORS, POINTS, PREDICTED, TRUE


def test_attributes_may_be_the_labels_they_point_to():
    labels = [-1 if POINTS[c] is None else POINTS[c] for c in COLORS]
    for values in (labels, [POINTS[c] for c in COLORS], np.array(labels), torch.tensor(labels)):
        assert {"bias_following": bias_following(PREDICTED, TRUE, values)} == pytest.approx(BIAS["bias_following"][2])
    assert bias_labels([3, 7, 3], {3: 1, 7: -1}).tolist() == [1, -1, 1]


def test_samples_that_point_to_no_label_are_left_out():
    rng = np.random.default_rng(4)
    predicted, true, values = rng.integers(0, 3, 200), rng.integers(0, 3, 200), rng.choice(list(POINTS), 200)
    rows = [(p, y, POINTS[a]) for p, y, a in zip(predicted, true, values, strict=True) if POINTS[a] is not None]
    against = [(p, y, b) for p, y, b in rows if y != b]
    followed = sum(p == b for p, _, b in against) / len(against)
    assert bias_following(predicted, true, values, POINTS) == pytest.approx(followed)
    right = [sum(p == y for p, y, _ in part) / len(part) for part in ([r for r in rows if r[1] == r[2]], against)]
    assert aligned_conflicting_accuracy(predicted, true, values, POINTS) == pytest.approx(right)


def test_independent_columns_have_no_association_and_equal_ones_the_whole():
    predicted, attribute = np.repeat([0, 1, 2], 4), np.tile(["a", "b"], 6)
    assert cramers_v(predicted, attribute) == pytest.approx(0)
    assert cramers_v(predicted, predicted) == pytest.approx(1)
    assert cramers_v([1] * 12, attribute) == 0


def test_groups_have_their_accuracies():
    assert group_accuracies(PREDICTED, TRUE, COLORS) == pytest.approx({"green": 2 / 4, "gray": 1.0, "red": 3 / 5})
    assert list(group_accuracies([1, 1, 0], [1, 0, 0], [10, 9, 10])) == [9, 10]


@pytest.mark.parametrize("groups", [["a", "a", "b", "b", "b"], ["a", "a", "b", "c", "b"]])
def test_a_label_that_a_group_lacks_is_no_gap(groups):
    assert equalised_odds_gap([0, 1, 0, 0, 1], [0, 1, 0, 0, 1], groups)[0] == 0
    assert equalised_odds_gap([0, 1, 0, 0], [0, 1, 0, 0], groups[:4])[0] == 0


def test_the_worst_group_is_the_worst_of_a_plain_count():
    rng = np.random.default_rng(2)
    for _ in range(10):
        true, groups = rng.integers(0, 4, 60), rng.choice(["a", "b", "c"], 60)
        predicted = np.where(rng.random(60) < 0.7, true, rng.integers(0, 4, 60))
        cells = {}
        for p, y, a in zip(predicted, true, groups, strict=True):
            cells.setdefault((a, y), []).append(p == y)
        accuracy, samples = worst_group_accuracy(predicted, true, groups)
        assert accuracy == pytest.approx(min(np.mean(c) for c in cells.values()))
        assert samples in [len(c) for c in cells.values() if np.mean(c) == pytest.approx(accuracy)]
        numbered = dict(zip(sorted(cells), range(len(cells)), strict=True))
        assert label_groups(groups, true).tolist() == [numbered[a, y] for a, y in zip(groups, true, strict=True)]


def test_equalised_odds_compares_within_each_label():
    # Given the label both groups answer alike, but group b holds more of label 1, which is often taken for 0.
    true = [1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2]
    predicted = [1, 0, 2, 2, 2, 2, 1, 0, 1, 0, 2, 2]
    groups = ["a"] * 6 + ["b"] * 6
    assert equalised_odds_gap(predicted, true, groups)[0] == 0
    assert demographic_parity_gap(predicted, groups) == pytest.approx(4 / 6 - 2 / 6)


@pytest.mark.parametrize("seed", range(5))
def test_fairlearn_agrees_on_two_classes(seed):
    fairlearn = pytest.importorskip("fairlearn.metrics")
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    groups = rng.choice(["a", "b", "c"], 200)
    parity = fairlearn.demographic_parity_difference(true, predicted, sensitive_features=groups)
    odds = fairlearn.equalized_odds_difference(true, predicted, sensitive_features=groups)
    rates = fairlearn.MetricFrame(
        metrics=fairlearn.false_positive_rate, y_true=true, y_pred=predicted, sensitive_features=groups
    )
    assert demographic_parity_gap(predicted, groups) == pytest.approx(parity)
    assert equalised_odds_gap(predicted, true, groups)[0] == pytest.approx(odds)
    by_group, overall = false_positive_rates(predicted, true, groups)
    assert by_group == pytest.approx(dict(rates.by_group))
    assert overall == pytest.approx(rates.overall)

"""Intervals against scipy, ranks against a published worked example."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_unlearn.evaluation.comparison.statistics import interval, ranking


def test_interval_is_that_of_student():
    values = [1.0, 2.0, 4.0, 4.5]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_a_single_value_has_no_interval():
    mean, half = interval([3.0])
    assert mean == 3.0
    assert math.isnan(half)


# Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006, table 6: AUC on 14 data sets.
AUC = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
    "C4.5+m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
    "C4.5+cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
    "C4.5+m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
}


def test_ranks_and_critical_difference_are_the_published_ones():
    found = ranking({name: [-value for value in values] for name, values in AUC.items()})
    assert found.ranks == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=0.001
    )
    assert next(iter(found.ranks)) == "C4.5+m+cf"
    assert found.blocks == 14
    assert found.difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=0.002)  # 1.25 in the paper
    assert found.p_value < 0.05  # χ² = 9.28 with three degrees of freedom


def test_two_methods_have_ranks_and_no_test():
    found = ranking({"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 4.0]})
    assert found.ranks == pytest.approx({"a": 4 / 3, "b": 5 / 3})
    assert math.isnan(found.p_value)
    assert math.isnan(found.difference)


@pytest.mark.parametrize("scores", [{}, {"a": [1.0], "b": [1.0, 2.0]}])
def test_scores_that_cannot_be_ranked_are_refused(scores):
    with pytest.raises(ValueError, match="a score of each method in every block"):
        ranking(scores)

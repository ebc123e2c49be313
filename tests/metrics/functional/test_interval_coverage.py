"""Intervals against the exact probability that they cover the truth, and against what sorting and counting give."""

import numpy as np
import pytest
from scipy.stats import binom

from hf_unlearn.metrics.functional.intervals import difference, macro_f1, mean, share, share_limits, worst_share


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_limits_of_a_share_cover_every_true_share(level):
    """The probability of all outcomes whose limits hold the truth is summed, so nothing is left to chance."""
    hits = np.arange(26)
    low, high = share_limits(hits, np.full(26, 25), level)
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    for truth in np.linspace(0.001, 0.999, 333):
        covered = binom.pmf(hits, 25, truth)[(low <= truth) & (truth <= high)].sum()
        assert covered >= level


def test_intervals_hold_their_value_and_mirror_each_other():
    a, b = share([1, 1, 1, 0]), share([0, 0, 1, 0])
    there, back = difference(a, b), difference(b, a)
    assert there.value == pytest.approx(0.5)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low < there.value < there.high


def test_the_worst_of_many_alike_groups_has_the_wider_limits():
    one, many = worst_share([8], [10]), worst_share([8] * 5, [10] * 5)
    assert one.value == many.value == pytest.approx(0.8)
    assert many.low < one.low < one.high < many.high
    assert one == pytest.approx(share([1] * 8 + [0] * 2))


def test_bootstraps_depend_on_their_seed_alone():
    values, predicted, true = np.arange(50) ** 2, np.arange(60) % 3, np.arange(60) % 4
    assert mean(values, seed=1) == mean(values, seed=1) != mean(values, seed=2)
    assert macro_f1(predicted, true, seed=1) == macro_f1(predicted, true, seed=1)
    assert mean([3.0] * 9) == (3.0, 3.0, 3.0)
    assert macro_f1([0, 1, 1], [0, 1, 1]) == (1.0, 1.0, 1.0)

"""Intervals against those of scipy, of resampling, and of published tables."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, chi2_contingency, ncx2
from sklearn.metrics import f1_score

from hf_unlearn.metrics.functional import fairness, intervals


@pytest.mark.parametrize(("hits", "size"), [(0, 1), (0, 40), (7, 40), (40, 40), (971, 1000)])
def test_shares_have_exact_limits(hits, size):
    exact = binomtest(hits, size).proportion_ci(0.95, method="exact")
    value, low, high = intervals.share([True] * hits + [False] * (size - hits))
    assert (value, low, high) == pytest.approx((hits / size, exact.low, exact.high), abs=1e-12)
    lows, highs = intervals.share_limits([hits, hits], [size, size])
    assert np.allclose((lows, highs), [[low] * 2, [high] * 2])


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="`hits` must lie between"):
        intervals.share([])


def test_a_mean_has_the_limits_of_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(size=300)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=4000).confidence_interval
    assert intervals.mean(values) == pytest.approx((values.mean(), theirs.low, theirs.high), rel=0.03)


@pytest.mark.slow
def test_macro_f1_has_the_limits_of_resampled_rows():
    generator = np.random.default_rng(0)
    true = generator.integers(4, size=250)
    predicted = np.where(generator.random(250) < 0.7, true, generator.integers(6, size=250))

    def one(rows):
        y = true[rows]
        return f1_score(y, predicted[rows], average="macro", labels=np.unique(y), zero_division=0)

    drawn = [one(generator.integers(250, size=250)) for _ in range(600)]
    value, low, high = intervals.macro_f1(predicted, true)
    assert value == pytest.approx(one(np.arange(250)))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def test_a_difference_has_newcombes_limits():
    # Table II of Newcombe 1998, 56/70 − 48/80, with Wilson's limits of each share: the square-and-add of method 10.
    first, second = (0.8, 0.6918, 0.8774), (0.6, 0.4904, 0.7005)
    assert intervals.difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-3)


def test_a_distance_that_may_be_zero_has_zero_as_its_lower_limit():
    a, b, far = intervals.share([1] * 9 + [0]), intervals.share([1] * 8 + [0] * 2), intervals.share([0] * 200)
    value, low, high = intervals.mean_distance([a], [b])
    assert value == pytest.approx(0.1)
    assert low == 0 < value < high
    assert intervals.mean_distance([a], [far])[1] > 0.5
    assert intervals.mean_distance([a], [far]) == pytest.approx(intervals.mean_distance([far], [a]))


def test_cramers_v_has_the_limits_of_the_noncentral_distribution():
    generator = np.random.default_rng(0)
    attribute = generator.integers(3, size=400)
    for follow in (0.0, 0.5):
        predicted = np.where(generator.random(400) < follow, attribute, generator.integers(4, size=400))
        value, low, high = intervals.cramers_v(predicted, attribute)
        table = np.array([[((attribute == a) & (predicted == p)).sum() for p in range(4)] for a in range(3)])
        statistic = chi2_contingency(table, correction=False).statistic
        assert (
            value
            == pytest.approx(np.sqrt(statistic / (400 * 2)))
            == pytest.approx(fairness.cramers_v(predicted, attribute))
        )
        assert low <= value <= high
        assert ncx2.cdf(statistic, 6, high**2 * 800) == pytest.approx(0.025, abs=1e-6)
        if follow:
            assert ncx2.cdf(statistic, 6, low**2 * 800) == pytest.approx(0.975, abs=1e-6)
        else:
            assert low == 0
    assert intervals.cramers_v(np.zeros(9, int), np.arange(9) % 2) == (0, 0, 0)


def test_the_worst_group_is_seen_among_all_groups():
    hits, sizes = np.array([9, 20, 3]), np.array([10, 40, 4])
    value, low, high = intervals.worst_share(hits, sizes)
    exact = [binomtest(h, n).proportion_ci(1 - 0.05 / 3, method="exact") for h, n in zip(hits, sizes, strict=True)]
    assert (value, low, high) == pytest.approx((0.5, min(e.low for e in exact), min(e.high for e in exact)))

"""Figures with their errors, margins and tests, each against a closed form."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.audit.evidence import (
    COVERAGE,
    PRIOR_SEEDS,
    Estimate,
    Evidence,
    compare,
    estimate_mean,
    estimate_share,
    seed_spread,
    separation,
    settle,
)


def test_auc_is_scikit_learns_and_its_error_that_of_delong():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 60).round(1), rng.normal(0, 1, 90).round(1)
    auc = separation(a, b)
    expected = roc_auc_score(np.r_[np.ones(60), np.zeros(90)], np.r_[a, b])
    assert auc.value == pytest.approx(expected)
    wins = (a[:, None] > b).astype(float) + 0.5 * (a[:, None] == b)
    variance = wins.mean(1).var() / 60 + wins.mean(0).var() / 90
    floor = 2 * 0.5**2 * (1 / 60**2 + 1 / 90**2)
    assert auc.error == pytest.approx(math.sqrt(variance + floor))


def test_errors_of_a_paired_difference_and_of_a_share_that_is_zero():
    x, y = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 1.0, 2.0, 2.0])
    assert (estimate_mean(x) - estimate_mean(y)).error == pytest.approx((x - y).std() / 2)
    assert estimate_share(np.zeros(50)).error == pytest.approx(math.sqrt(2) / 50)
    pair = Estimate.mean([estimate_share([1, 0]), estimate_share([1, 1])])
    assert pair.value == 0.75
    assert pair.rows[0].tolist() == [1.0, 0.5]


def test_spread_of_one_seed_is_the_default_and_more_seeds_narrow_it():
    one = stats.t.ppf(COVERAGE, PRIOR_SEEDS) * 0.02 * math.sqrt(2)
    assert seed_spread([0.4], 0.02) == pytest.approx(one)
    s = math.sqrt((PRIOR_SEEDS * 0.02**2 + 2 * 0.01**2) / (PRIOR_SEEDS + 1))
    assert seed_spread([0.4, 0.42], 0.02) == pytest.approx(stats.t.ppf(COVERAGE, PRIOR_SEEDS + 1) * s * math.sqrt(1.5))
    widths = [seed_spread([0.4] * k, 0.02) for k in range(1, 8)]
    assert widths == sorted(widths, reverse=True)
    assert seed_spread([0.1, 0.9], 0.02) > one


def line(key="forget_accuracy", group="memory"):
    return Evidence(key, "", group, 0.9, 0.5, [0.5])


def compared(value, rows=400, **changes):
    """A share of about `value` against 0.5 on other rows."""
    hits = np.arange(rows) < value * rows
    half = Estimate(0.5)
    settings = {"practical": 0.1, "default_spread": 0.0, "alpha": 0.05, **changes}
    out = line()
    compare(out, estimate_share(np.arange(rows) < 0.9 * rows), estimate_share(hits), half, **settings)
    return out


def test_equivalence_needs_the_interval_inside_the_margin_and_difference_needs_it_outside():
    assert compared(0.5).result == "equivalent"
    assert compared(0.5).telling
    assert compared(0.5, rows=20).result == "unclear"  # too few rows
    assert not compared(0.5, rows=40, practical=0.18).telling  # the original is outside, but not by much
    lines = [compared(0.5), compared(0.8), compared(0.58), compared(0.2)]
    settle(lines, 0.05)
    assert [x.result for x in lines] == ["equivalent", "different", "unclear", "different"]
    assert [x.side for x in lines] == [0, 1, 0, -1]
    assert compared(0.2, upper_only=True).result == "equivalent"


def test_a_line_tells_only_if_a_hidden_original_would_fail_it_too():
    assert compared(0.5, hidden=Estimate(0.7)).telling
    assert not compared(0.5, hidden=Estimate(0.55)).telling
    assert not compared(
        0.5, rows=400, practical=0.3, hidden=Estimate(0.95)
    ).telling  # the original is within two margins


def test_reasons_are_corrected_for_their_number():
    lone = [compared(0.65)]  # p about 0.02
    assert 0.01 < lone[0].p_value < 0.05
    settle(lone, 0.05)
    assert lone[0].result == "different"
    many = [compared(0.65), *(compared(0.5) for _ in range(9))]
    settle(many, 0.05)
    assert many[0].result != "different"

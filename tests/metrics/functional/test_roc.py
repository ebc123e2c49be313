"""ROC curves and their intervals against scikit-learn, DeLong's formula restated pair by pair, and simulated coverage."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from hf_unlearn.metrics.functional.roc import roc


@pytest.mark.parametrize("decimals", [8, 0])  # 0: hardly a score without a tie
def test_auc_and_true_positive_rates_are_those_of_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 700).round(decimals), rng.normal(0, 1, 2_000).round(decimals)
    found = roc(members, others)
    truth, scores = np.repeat([1, 0], [700, 2_000]), np.concatenate([members, others])
    assert found.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    for rate, (share, low, high) in found.tpr.items():
        assert share == pytest.approx(tpr[fpr <= rate + 1e-12].max())
        k = round(share * 700)
        assert low == pytest.approx(stats.beta.ppf(0.025, k, 701 - k) if k else 0.0)
        assert high == pytest.approx(stats.beta.ppf(0.975, k + 1, 700 - k))
    for rate, share in zip(*found.curve, strict=True):
        assert share == pytest.approx(tpr[fpr <= rate + 1e-12].max())
    json.dumps(found.as_dict())


def test_the_interval_of_the_auc_is_delongs():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 30).round(1)
    wins = np.array([[1.0 if m > o else 0.5 if m == o else 0.0 for o in others] for m in members])
    error = math.sqrt(wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 30)
    found = roc(members, others)
    a = wins.mean()
    logit = math.log(a / (1 - a))
    reach = 1.959964 * error / (a * (1 - a))
    assert found.auc_low == pytest.approx(1 / (1 + math.exp(-(logit - reach))), rel=1e-6)
    assert found.auc_high == pytest.approx(1 / (1 + math.exp(-(logit + reach))), rel=1e-6)


@pytest.mark.parametrize("d", [0.0, 1.5])
def test_the_interval_of_the_auc_covers_the_truth(d):
    truth, rng, covered = stats.norm.cdf(d / math.sqrt(2)), np.random.default_rng(0), 0
    for _ in range(1000):
        found = roc(rng.normal(d, 1, 50), rng.normal(0, 1, 50))
        covered += found.auc_low <= truth <= found.auc_high
    assert 930 <= covered <= 975


def test_scores_separated_without_error_still_have_an_interval():
    found = roc(np.arange(10, 20), np.arange(5))
    assert (found.auc, found.auc_high) == (1.0, 1.0)
    assert found.auc_low == pytest.approx(0.025 ** (1 / 5))
    below = roc(np.arange(5), np.arange(10, 20))
    assert (below.auc, below.auc_low) == (0.0, 0.0)
    assert below.auc_high == pytest.approx(1 - 0.025 ** (1 / 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc([1.0], [1.0, 2.0]), "`members` holds 1 scores"),
        (lambda: roc([1.0, 2.0], [0.0, np.nan]), "`others` holds NaN"),
        (lambda: roc([1.0, 2.0], [1.0, 2.0], rates=(1.0,)), "`rates` must lie"),
        (lambda: roc([1.0, 2.0], [1.0, 2.0], level=95), "`level` must lie"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The challenge's ε against a restatement on a grid, its score by hand, and KLoM against histograms of NumPy."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_unlearn.metrics.functional.forgetting_quality import forgetting_epsilon, forgetting_quality, klom


def epsilon_on_a_grid(unlearned, retrained, delta=1e-5, step=0.01):
    """One row of the challenge's metric: every threshold and window of a grid, one by one."""

    def worst(fpr, fnr):
        if fpr == 0 and fnr == 0:
            return 50.0
        if fpr == 0 or fnr == 0:
            return 0.0
        pairs = [(1 - delta - fpr, fnr), (1 - delta - fnr, fpr)]
        return max([0.0] + [math.log(a / b) for a, b in pairs if a > 0])

    positive, negative = unlearned, retrained
    if np.median(retrained) > np.median(unlearned):
        positive, negative = retrained, unlearned
    everything = np.concatenate([unlearned, retrained])
    best = 0.0
    for t in np.arange(everything.min(), everything.max() + step, step):
        best = max(best, worst((negative >= t).mean(), (positive < t).mean()))
    inner, outer = sorted([unlearned, retrained], key=np.ptp)
    width = np.ptp(inner)
    if width < 0.01 * np.ptp(outer):
        return 50.0
    for right in np.arange(inner.min() + width - 2, inner.max() + 2, step):
        for left in np.arange(right - width - 2, right - width + 2, step):
            inside = [(left <= x) & (x <= right) for x in (inner, outer)]
            best = max(best, worst(inside[1].mean(), 1 - inside[0].mean()))
    return best


@pytest.mark.slow
def test_epsilon_is_that_of_the_challenge():
    rng = np.random.default_rng(0)
    rows = [(0, 1, 0, 1), (1.5, 1, 0, 1), (0, 0.4, 0, 3), (-1, 1, 1, 0.5), (30, 1, 0, 1), (0, 1e-4, 0, 1)]
    unlearned = np.stack([rng.normal(m, s, 12) for m, s, _, _ in rows], 1)
    retrained = np.stack([rng.normal(m, s, 12) for _, _, m, s in rows], 1)
    found = forgetting_epsilon(unlearned, retrained)
    slow = [epsilon_on_a_grid(unlearned[:, j], retrained[:, j], step=0.02) for j in range(len(rows))]
    np.testing.assert_allclose(found, slow, atol=1e-9)
    assert found[4] == found[5] == 50


def test_epsilon_grows_with_the_distance_and_is_zero_without_one():
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=(64, 20)), rng.normal(size=(64, 20))
    means = [forgetting_epsilon(noise + d, base).mean() for d in (0.0, 1.0, 2.0, 4.0)]
    assert means == sorted(means)
    np.testing.assert_array_equal(forgetting_epsilon(np.ones((5, 3)), np.ones((5, 3))), 0)
    np.testing.assert_array_equal(forgetting_epsilon(np.ones((5, 3)), np.zeros((5, 3))), 50)


def test_quality_gives_half_the_points_for_each_bin():
    # 512 models show at most ⌈ln 511⌉ = 7: fourteen bins of 0.5.
    assert forgetting_quality([0.0, 0.49, 0.5, 1.2, 6.9, 7.0], 512) == pytest.approx(
        (1 + 1 + 1 / 2 + 1 / 4 + 2**-13 + 0) / 6
    )
    assert forgetting_quality([0.0], 512, retain_ratio=0.9, test_ratio=0.8) == pytest.approx(0.72)
    assert forgetting_quality([1.0], 3) == 0  # ⌈ln 2⌉ = 1


def test_klom_is_the_divergence_of_histograms():
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(1, 1, (50, 6)), rng.normal(0, 2, (50, 6))
    unlearned[0, 0] = 1e6  # cut to 100
    found = klom(unlearned, retrained)
    for j in range(6):
        p, q = np.clip(unlearned[:, j], -100, 100), np.clip(retrained[:, j], -100, 100)
        edges = np.linspace(min(p.min(), q.min()), max(p.max(), q.max()), 21)
        p, q = (np.histogram(x, edges)[0] / 50 for x in (p, q))
        q = np.where(p > 0, np.maximum(q, 1e-5), q)
        assert found[j] == pytest.approx(stats.entropy(p, q), rel=1e-9)
    np.testing.assert_allclose(klom(retrained, retrained), 0, atol=1e-12)
    np.testing.assert_array_equal(klom(np.ones((4, 2)), np.ones((4, 2))), 0)
    assert (klom(retrained + 50, retrained) > 5).all()


S = np.zeros((4, 6))
NAN = np.full((4, 6), np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: forgetting_epsilon(S[:1], S[:1]),
            "holds 1 models, and 2 or more are needed for rates of error. Train more.$",
        ),
        (lambda: forgetting_epsilon(S, NAN), "`retrained` holds NaN"),
        (lambda: forgetting_epsilon(S, S, delta=1), "`delta` must lie"),
        (lambda: forgetting_quality([0.0], 2), "`models=2` show no ε"),
        (lambda: forgetting_quality([np.nan], 5), "`epsilon` must hold"),
        (lambda: forgetting_quality([0.0], 5, test_ratio=-1), "`test_ratio=-1`"),
        (lambda: klom(S, S, bins=1), "`bins=1`"),
        (lambda: klom(S, S, floor=0), "`floor` must lie"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

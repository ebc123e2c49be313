"""Attacks on single rows against slow restatements (one row, one pair, one threshold at a time) and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.shadow_models import attackers, half_splits
from hf_unlearn.metrics.functional import per_example_attacks
from hf_unlearn.metrics.functional.forgetting_quality import klom
from hf_unlearn.metrics.functional.per_example_attacks import confidence_scores, lira, rmia, score_shift, u_lira
from hf_unlearn.metrics.functional.roc import roc


def simulated(models=32, rows=400, shift=1.0, seed=0):
    """Scores of rows of different difficulty and spread, `shift` spreads higher where trained on; the first is the target."""
    rng = np.random.default_rng(seed)
    members = np.concatenate([rng.random((1, rows)) < 0.5, half_splits(rows, models, seed)])
    spread = rng.uniform(0.5, 2.0, rows)
    scores = rng.normal(0, 3, rows) + spread * (rng.normal(size=members.shape) + shift * members)
    return scores.astype(np.float32), members


def auc(scores, members):
    return roc(scores[members], scores[~members]).auc


def test_the_score_is_the_log_odds_of_the_true_class():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 4, (50, 5)), rng.integers(5, size=50)
    expected = []
    for z, y in zip(logits, labels, strict=True):
        p = np.exp(z) / np.exp(z).sum()
        expected.append(math.log(p[y] / (1 - p[y])))
    found = confidence_scores(torch.tensor(logits), torch.tensor(labels))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_scores_neither_saturate_nor_overflow_nor_change_the_logits():
    logits = np.array([[60.0, 0.0], [300.0, -300.0], [-1e4, 1e4]], np.float32)
    kept = logits.copy()
    np.testing.assert_allclose(confidence_scores(logits, [0, 0, 0]), [60.0, 600.0, -2e4])
    np.testing.assert_array_equal(logits, kept)


def test_results_do_not_depend_on_the_size_of_a_chunk(monkeypatch):
    scores, members = simulated(models=8, rows=100)
    logits = np.random.default_rng(0).normal(size=(100, 4))

    def everything():
        yield confidence_scores(logits, np.arange(100) % 4)
        yield lira(scores[0], scores[1:], members[1:])
        yield rmia(scores[0], scores[1:], members[1:], scores[0, ::-1], scores[1:, ::-1])
        yield from u_lira(scores[1:5], scores[5:])
        yield klom(scores[1:5], scores[5:])

    whole = list(everything())
    monkeypatch.setattr(per_example_attacks, "CHUNK", 7)
    for one, other in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def lira_row_by_row(target, shadows, members, online, fixed):
    """The published attack as its authors describe it, with scipy, one row at a time."""
    rows = range(len(target))
    sides = {kind: [shadows[members[:, j] == kind, j] for j in rows] for kind in (True, False)}
    # One σ for all is the same positive factor in every ratio, whatever it is: the ranks are those of σ = 1.
    sigma = {k: [1.0 if fixed else np.std(x) for x in sides[k]] for k in sides}
    found = []
    for j in rows:
        out = stats.norm(np.median(sides[False][j]), sigma[False][j])
        if online:
            into = stats.norm(np.median(sides[True][j]), sigma[True][j])
            found.append(into.logpdf(target[j]) - out.logpdf(target[j]))
        else:
            found.append(out.logcdf(target[j]) - out.logsf(target[j]))  # log-odds of Λ, where Λ itself would round to 1
    return np.array(found)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("online", [True, False])
def test_lira_ranks_as_the_published_attack(online, fixed):
    scores, members = simulated()
    found = lira(scores[0], scores[1:], members[1:], online=online, fixed_variance=fixed)
    expected = lira_row_by_row(scores[0].astype(float), scores[1:].astype(float), members[1:], online, fixed)
    assert auc(found, members[0]) == pytest.approx(roc_auc_score(members[0], expected), abs=1e-6)
    assert stats.spearmanr(found, expected).statistic > 1 - 1e-9
    if online and not fixed:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_with_few_shadows_one_variance_serves_all_rows():
    scores, members = simulated(models=8)
    found = lira(scores[0], scores[1:], members[1:])
    np.testing.assert_array_equal(found, lira(scores[0], scores[1:], members[1:], fixed_variance=True))
    assert not np.allclose(found, lira(scores[0], scores[1:], members[1:], fixed_variance=False))
    many, which = simulated(models=64)
    np.testing.assert_array_equal(
        lira(many[0], many[1:], which[1:]), lira(many[0], many[1:], which[1:], fixed_variance=False)
    )


@pytest.mark.slow
def test_lira_reaches_the_closed_form_where_a_global_threshold_does_not():
    scores, members = simulated(models=256, rows=20_000, shift=1.0)
    exact = stats.norm.cdf(1 / math.sqrt(2))  # two Gaussians, one standard deviation apart
    assert auc(lira(scores[0], scores[1:], members[1:]), members[0]) == pytest.approx(exact, abs=0.01)
    assert auc(lira(scores[0], scores[1:], online=False), members[0]) < exact  # members among the "out" models
    offline = lira(scores[0], scores[1:], members[1:], online=False)
    assert auc(offline, members[0]) == pytest.approx(exact, abs=0.01)
    assert auc(scores[0], members[0]) < exact - 0.1


def test_offline_lira_is_one_sided():
    """A row the model believes in far less than models without it is no member; the published code calls it one."""
    rng = np.random.default_rng(0)
    shadows = rng.normal(size=(8, 3))
    low, middle, high = lira(np.array([-9.0, 0.0, 9.0]), shadows, online=False)
    assert low < middle < high


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_rmia_counts_the_pairs(online, gamma):
    scores, members = simulated(models=8, rows=60)
    population, _ = simulated(models=8, rows=40, seed=1)
    found = rmia(scores[0], scores[1:], members[1:], population[0], population[1:], online=online, gamma=gamma, a=0.4)

    def p(phi):
        return math.exp(phi) / (1 + math.exp(phi))

    def relative(phi, others, trained):
        out = np.mean([p(o) for o, t in zip(others, trained, strict=True) if not t])
        if online:
            into = [p(o) for o, t in zip(others, trained, strict=True) if t]
            return p(phi) / ((out + np.mean(into)) / 2 if into else out)
        return p(phi) / ((1.4 * out + 0.6) / 2)

    nobody = np.zeros(8, bool)
    z = [relative(population[0, k], population[1:, k], nobody) for k in range(40)]
    for j in range(60):
        x = relative(scores[0, j], scores[1:, j], members[1:, j])
        assert found[j] == pytest.approx(np.mean([x / other >= gamma for other in z]), abs=1e-9)


def test_rmia_ranks_members_higher_and_bears_outputs_of_any_size():
    scores, members = simulated(models=16, rows=2000, shift=2.0)
    population, _ = simulated(models=16, rows=500, shift=0.0, seed=1)
    assert auc(rmia(scores[0], scores[1:], members[1:], population[0], population[1:]), members[0]) > 0.7
    huge = [np.where(x > 0, 1e5, -1e5).astype(np.float32) for x in (scores, population)]
    found = rmia(huge[0][0], huge[0][1:], members[1:], huge[1][0], huge[1][1:])
    assert np.isfinite(found).all()


def test_u_lira_leaves_the_attacked_pair_out_of_both_fits():
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(0.5, 1, (6, 30)), rng.normal(0, 2, (6, 30))
    found = u_lira(unlearned, retrained, fixed_variance=False)
    for i in range(6):
        rest = np.arange(6) != i
        for j in range(30):
            one = stats.norm(unlearned[rest, j].mean(), unlearned[rest, j].std())
            other = stats.norm(retrained[rest, j].mean(), retrained[rest, j].std())
            for ratios, scores in zip(found, (unlearned, retrained), strict=True):
                expected = one.logpdf(scores[i, j]) - other.logpdf(scores[i, j])
                assert ratios[i, j] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("fixed", [True, False])
def test_u_lira_is_at_chance_where_unlearning_is_retraining(fixed):
    rng = np.random.default_rng(1)
    unlearned, retrained = rng.normal(0, 1, (8, 20_000)), rng.normal(0, 1, (8, 20_000))
    assert roc(*u_lira(unlearned, retrained, fixed_variance=fixed)).auc == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("d", [1.5, -1.5])
def test_u_lira_finds_both_directions_and_the_shift_tells_them_apart(d):
    rng = np.random.default_rng(2)
    unlearned, retrained = rng.normal(d, 1, (40, 5_000)), rng.normal(0, 1, (40, 5_000))
    assert roc(*u_lira(unlearned, retrained)).auc == pytest.approx(stats.norm.cdf(1.5 / math.sqrt(2)), abs=0.01)
    shift = score_shift(unlearned, retrained)
    assert shift.mean() == pytest.approx(d, abs=0.05)
    pooled = math.sqrt((unlearned[:, 0].var(ddof=1) + retrained[:, 0].var(ddof=1)) / 2)
    assert shift[0] == pytest.approx((unlearned[:, 0].mean() - retrained[:, 0].mean()) / pooled)


def test_constant_scores_are_chance():
    shadows, members = np.zeros((4, 50)), half_splits(50, 4)
    scores = lira(np.zeros(50), shadows, members)
    found = roc(scores[:25], scores[25:])
    assert found.auc == 0.5
    assert all(share == 0 for share, _, _ in found.tpr.values())  # nothing above the threshold, ties let nobody in
    np.testing.assert_array_equal(score_shift(shadows, shadows), 0)


def test_the_design_does_not_tell_who_was_trained_on_what():
    """With noise for scores, attacks through `attackers` are at chance, model by model."""
    members = half_splits(4_000, 16)
    assert (members.sum(0) == 8).all()
    noise = np.random.default_rng(3).normal(size=members.shape)
    left = [attackers(i, 16) for i in range(16)]
    assert all(rest.sum() == 14 and not rest[i] and (members[rest].sum(0) == 7).all() for i, rest in enumerate(left))
    found = [auc(lira(noise[i], noise[rest], members[rest]), members[i]) for i, rest in enumerate(left)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.01)


S, M = np.zeros((4, 6)), half_splits(6, 4)
NAN = np.full((4, 6), np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confidence_scores(np.zeros((3, 1)), [0, 0, 0]), "`logits` must have shape"),
        (lambda: confidence_scores(np.zeros((3, 2)), [0, 0]), "`labels` has shape"),
        (lambda: confidence_scores(np.zeros((3, 2)), [0, 0, 2]), "`labels` must lie in 0..1"),
        (lambda: confidence_scores(NAN, [0, 0, 0, 0]), "`logits` holds NaN"),
        (lambda: lira(S[0], S), "`members` is missing"),
        (lambda: lira(S[0], NAN, M), "`shadows` holds NaN"),
        (lambda: lira(NAN[0], S, M), "`target` holds NaN"),
        (lambda: lira(S[0, :3], S, M), "`target` has 3 rows, `shadows` has 6"),
        (lambda: lira(S[0], S, M.astype(int)), "`members` must be true or false"),
        (lambda: lira(S[0], S, M[:2]), "`members` must be true or false"),
        (lambda: lira(S[0], S[:2], M[:2]), "`shadows` holds one model per row and side.*Train more"),
        (
            lambda: lira(S[0], S[:2], M[:2], fixed_variance=False),
            "a row with 1 models trained without it, and 2 or more are needed .* or set `fixed_variance=True`",
        ),
        (lambda: lira(S[0], S, np.ones((4, 6), bool)), "`shadows` has a row with 0 models trained without it, and 1"),
        (lambda: lira(S[0], S, ~np.ones((4, 6), bool)), "`shadows` has a row with 0 models trained on it"),
        (
            lambda: rmia(S[0], S, np.ones((4, 6), bool), S[0], S),
            "`shadows` has a row with 0 models trained .* Train more.$",
        ),
        (lambda: rmia(S[0], S, None, S[0], S), "`members` is missing"),
        (lambda: rmia(S[0], S, M, S[0], S, gamma=0), "`gamma` must be above 0"),
        (lambda: rmia(S[0], S, M, S[0], S, a=1.1), r"`a` must lie in \[0, 1\]"),
        (lambda: rmia(S[0], S, M, S[0, :2], S), "`population` has 2 rows"),
        (lambda: u_lira(S, S[:2]), "`unlearned` .* differ in shape"),
        (lambda: u_lira(S[:1], S[:1]), "`unlearned` holds 1 models, and 2 or more are needed .* Train more.$"),
        (lambda: u_lira(S[:2], S[:2], fixed_variance=False), "holds 2 models, and 3 .* or set `fixed_variance"),
        (lambda: u_lira(NAN, S), "`unlearned` holds NaN"),
        (lambda: score_shift(S[:1], S[:1]), "`unlearned` holds 1 models, and 2 .* Train more.$"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

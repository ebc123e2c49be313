"""Surrogate targets, against closed forms."""

import math

import numpy as np
import pytest
import torch

from hf_unlearn.methods.components.surrogate import (
    FOLDS,
    accuracies,
    as_unseen,
    geometric_mean,
    log_odds,
    mean_confidence,
    power,
    probe_opinions,
    sharpened,
    sharpness,
)


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_sharpening_reaches_a_confidence_and_keeps_the_order(confidence):
    p = (2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))).softmax(-1)
    sharp = sharpened(p, confidence)
    assert mean_confidence(sharp) == pytest.approx(confidence, abs=1e-3)
    assert torch.equal(sharp.argmax(-1), p.argmax(-1))
    torch.testing.assert_close(sharp.sum(-1), torch.ones(50))
    assert sharpened(p, 2.0).amax(-1).mean() > sharp.amax(-1).mean()


def test_log_odds_of_labels_become_the_quantiles_of_unseen_rows():
    own, labels = torch.tensor([4.6, 2.9, 9.0, -1.0]), torch.tensor([0, 0, 0, 1])
    unseen = torch.cat([torch.linspace(-2, 4, 7), torch.linspace(5, 11, 7)])
    moved = as_unseen(own, labels, unseen, torch.tensor([0] * 7 + [1] * 7))
    # Seven evenly spaced values, so the quantile q is −2 + 6 q. The one row of class 1 gets the median of its class.
    torch.testing.assert_close(moved, torch.tensor([-2 + 6 / 2, -2 + 6 / 6, -2 + 6 * 5 / 6, 8.0]))


def test_a_class_with_few_unseen_rows_borrows_those_of_the_others():
    unseen, labels = torch.tensor([1.0] * 9 + [2.0]), torch.tensor([1] * 9 + [0])
    torch.testing.assert_close(as_unseen(torch.tensor([7.0]), torch.tensor([0]), unseen, labels), torch.tensor([1.0]))


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_log_odds_are_those_of_the_probability_of_the_label(scale):
    logits, labels = scale * torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    p = logits.double().softmax(-1)
    right = p[torch.arange(6), labels]
    wrong = (p * (torch.arange(4) != labels[:, None])).sum(-1)
    torch.testing.assert_close(log_odds(logits, labels).double(), (right / wrong).log(), rtol=1e-4, atol=1e-4)


def rows_of(classes, spread, seed=0, n=120):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.eye(8)[:classes] * 3
    return centres[y] + spread * torch.randn(n, 8, generator=generator), y


def test_a_probe_learns_what_the_features_tell_and_says_nothing_of_other_classes():
    x, y = rows_of(3, 0.5)
    others, labels = rows_of(3, 0.5, seed=1)
    p, unseen = probe_opinions(x, y, others, 5)
    assert -unseen[torch.arange(120), y].log().mean() < 0.1
    assert p.shape == (120, 5)
    assert torch.equal(p[:, 3:], torch.zeros(120, 2))
    torch.testing.assert_close(p.sum(-1), torch.ones(120))
    assert (p.argmax(-1) == labels).float().mean() > 0.95


def test_a_probe_is_bayes_rule_for_normal_classes_of_one_covariance():
    x, y = rows_of(2, 1.0, n=4000)
    x = x[:, :2]
    others = torch.tensor([[3.0, 0.0], [1.0, 1.5], [0.0, 0.5]])
    # Centres (3, 0) and (0, 3), covariance I: the log-odds of the first class are 3 (x₀ − x₁).
    p, _ = probe_opinions(x, y, others, 2)
    torch.testing.assert_close(p[:, 0], torch.sigmoid(3 * (others[:, 0] - others[:, 1])), atol=0.03, rtol=0)


def test_a_probe_of_noise_says_little():
    x, y = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 2
    p, unseen = probe_opinions(x, y, x, 2)
    for said in (p, unseen):
        assert float(-(said * said.log()).sum(-1).mean()) > 0.95 * math.log(2)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 0], [0, 0, 1, 2], [2, 0, 0, 0, 0]])
def test_a_probe_of_very_few_rows_gives_probabilities(labels):
    x, y = torch.eye(8)[: len(labels)], torch.tensor(labels)
    for said in probe_opinions(x, y, x[:1], 3):
        torch.testing.assert_close(said.sum(-1), torch.ones(len(said)))


def test_features_that_are_the_same_for_all_rows_tell_the_shares_of_the_classes():
    y = torch.arange(80) // 20 % 3  # the first token of a decoder is the same for every text that it begins
    p, _ = probe_opinions(torch.ones(80, 8), y, torch.ones(2, 8), 4)
    torch.testing.assert_close(p, torch.tensor([[0.5, 0.25, 0.25, 0.0]]).expand(2, 4))


def test_what_a_probe_says_of_a_row_is_said_without_this_row():
    x, y = rows_of(3, 2.0)
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    seen = torch.from_numpy(fold != fold[17])
    _, unseen = probe_opinions(x, y, x, 3)
    expected, _ = probe_opinions(x[seen], y[seen], x[[17]], 3)
    torch.testing.assert_close(unseen[[17]], expected)


def test_the_geometric_mean_and_powers_of_probabilities():
    p, q = torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([[0.2, 0.1, 0.7]])
    roots = torch.tensor([[0.1, 0.04, 0.07]]).sqrt()
    torch.testing.assert_close(geometric_mean([p, q]), roots / roots.sum())
    torch.testing.assert_close(geometric_mean([p, p, p]), p)
    torch.testing.assert_close(power(p, 2.0), p**2 / (p**2).sum())
    assert geometric_mean([p, torch.tensor([[0.0, 0.5, 0.5]])])[0, 0] < 1e-3  # one veto is enough
    two = torch.tensor([[0.6, 0.4]])
    # (0.6/0.4)^τ = 0.9/0.1
    assert sharpness(two, 0.9) == pytest.approx(math.log(9) / math.log(1.5), rel=1e-3)


def test_nothing_is_made_less_sure():
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
    torch.testing.assert_close(sharpened(p, 0.5), p)


def test_accuracies_by_hand():
    """Three rows to forget, of classes 0, 0 and 1; four retain rows."""
    eye = torch.eye(3)
    said, labels = eye[[0, 1, 2]], torch.tensor([0, 0, 1])
    unseen, kept = eye[[0, 1, 1, 2]], torch.tensor([0, 0, 1, 2])
    found, expected, error = accuracies(said, labels, unseen, kept)
    assert (found, expected) == (pytest.approx(1 / 3), pytest.approx((0.5 + 0.5 + 1.0) / 3))
    assert error == pytest.approx(0.5 * (1 / 3 + 1 / 3) ** 0.5)
    # No retain row is of class 1: all of them say how good the probes are.
    found, expected, error = accuracies(said[2:], labels[2:], unseen[[0, 1, 3]], kept[[0, 1, 3]])
    assert (found, expected, error) == (0.0, pytest.approx(2 / 3), pytest.approx(0.5 * (1 + 1 / 3) ** 0.5))

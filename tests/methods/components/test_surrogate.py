"""Surrogate targets, against closed forms."""

import math

import pytest
import torch

from hf_unlearn.methods.components.surrogate import (
    as_unseen,
    mean_confidence,
    probe_probabilities,
    sharpened,
    train_probe,
)


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_sharpening_reaches_a_confidence_and_keeps_the_order(confidence):
    p = (2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))).softmax(-1)
    sharp = sharpened(p, confidence)
    assert mean_confidence(sharp) == pytest.approx(confidence, abs=1e-3)
    assert torch.equal(sharp.argmax(-1), p.argmax(-1))
    torch.testing.assert_close(sharp.sum(-1), torch.ones(50))
    assert sharpened(p, 2.0).amax(-1).mean() > sharp.amax(-1).mean()


def test_beliefs_in_labels_become_the_quantiles_of_unseen_rows():
    sure = torch.tensor([[0.99, 0.01], [0.95, 0.05], [0.90, 0.10], [0.02, 0.98]])
    labels = torch.tensor([0, 0, 0, 1])
    chance = torch.linspace(0.2, 0.8, 7)
    unseen = torch.cat([torch.stack([chance, 1 - chance], 1), torch.stack([1 - chance / 2, chance / 2], 1)])
    unseen_labels = torch.tensor([0] * 7 + [1] * 7)
    moved = as_unseen(sure, labels, unseen, unseen_labels)
    odds = torch.quantile(torch.logit(chance), torch.tensor([5 / 6, 3 / 6, 1 / 6]))
    torch.testing.assert_close(moved[:3, 0], odds.sigmoid())
    torch.testing.assert_close(moved[3, 1], torch.tensor(0.25))  # the median of the class
    torch.testing.assert_close(moved.sum(-1), torch.ones(4))
    three = as_unseen(
        torch.tensor([[0.9, 0.06, 0.04]]), torch.tensor([0]), torch.tensor([[0.5, 0.3, 0.2]] * 6), torch.zeros(6).long()
    )
    torch.testing.assert_close(three, torch.tensor([[0.5, 0.3, 0.2]]))  # the rest keeps its proportions


def test_a_class_with_few_unseen_rows_borrows_those_of_the_others():
    p = torch.tensor([[0.9, 0.1]])
    unseen, labels = torch.tensor([[0.3, 0.7]] * 9 + [[0.6, 0.4]]), torch.tensor([1] * 9 + [0])
    torch.testing.assert_close(as_unseen(p, torch.tensor([0]), unseen, labels), torch.tensor([[0.7, 0.3]]))


def rows_of(classes, spread, seed=0, n=120):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.eye(8)[:classes] * 3
    return centres[y] + spread * torch.randn(n, 8, generator=generator), y


def test_a_probe_learns_what_the_features_tell_and_says_nothing_of_other_classes():
    x, y = rows_of(3, 0.5)
    probe, loss = train_probe(x, y)
    assert loss < 0.1
    unseen, labels = rows_of(3, 0.5, seed=1)
    p = probe_probabilities(probe, unseen, 5)
    assert p.shape == (120, 5)
    assert torch.equal(p[:, 3:], torch.zeros(120, 2))
    torch.testing.assert_close(p.sum(-1), torch.ones(120))
    assert (p.argmax(-1) == labels).float().mean() > 0.95


def test_a_probe_of_noise_is_as_simple_as_can_be():
    x, y = torch.randn(80, 8, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 2
    p = probe_probabilities(train_probe(x, y)[0], x, 2)
    entropy = float(-(p * p.log()).sum(-1).mean())
    assert entropy > 0.95 * math.log(2)


def test_a_probe_of_very_few_rows():
    x, y = rows_of(2, 0.1, n=3)
    assert probe_probabilities(train_probe(x, y)[0], x, 2).shape == (3, 2)


def test_nothing_is_made_less_sure():
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
    torch.testing.assert_close(sharpened(p, 0.5), p)

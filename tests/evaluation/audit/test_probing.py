"""Probes of features."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from hf_unlearn.evaluation.audit.probing import (
    SMALLEST_DISTANCE,
    class_probe,
    feature_likeness,
    membership_probe,
    prototypes,
)


def test_probes_separate_features_that_differ_and_no_others():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)), dtype=torch.float32)
    side = torch.arange(400) % 4 == 0
    shifted = x + 3 * side[:, None]
    assert class_probe(shifted[:200], side[:200], shifted[200:], side[200:]).value > 0.95
    assert abs(class_probe(x[:200], side[:200], x[200:], side[200:]).value - 0.5) < 0.15
    assert membership_probe(shifted[side], shifted[~side]).value > 0.95
    assert abs(membership_probe(x[:150], x[150:]).value - 0.5) < 0.1


def cka(a, b):
    """Linear CKA by its definition with kernel matrices: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))."""
    middle = np.eye(len(a)) - 1 / len(a)
    k, other = (middle @ (x @ x.T) @ middle for x in (a, b))
    return float((k * other).sum() / np.sqrt((k * k).sum() * (other * other).sum()))


@pytest.mark.slow
def test_likeness_of_features_is_cka_and_its_error_that_of_a_bootstrap_over_rows():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 6)) * np.arange(1, 7)
    b = a @ rng.normal(size=(6, 8)) + 3 * rng.normal(size=(300, 8))
    found = feature_likeness(torch.tensor(a), torch.tensor(b))
    assert found.value == pytest.approx(-np.log(1 - cka(a, b) + SMALLEST_DISTANCE))
    again = []
    for _ in range(200):
        rows = rng.integers(0, 300, 300)
        again.append(-np.log(1 - cka(a[rows], b[rows]) + SMALLEST_DISTANCE))
    assert found.error == pytest.approx(np.std(again), rel=0.25)


def test_features_are_alike_up_to_rotation_and_not_by_chance():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)))
    rotation = torch.linalg.qr(torch.tensor(rng.normal(size=(6, 6))))[0]
    same = feature_likeness(x, 3 * x @ rotation + 1)
    assert same.value == pytest.approx(-np.log(SMALLEST_DISTANCE))
    assert same.error == pytest.approx(0, abs=1e-6)
    assert feature_likeness(x, x[torch.randperm(400)]).value < 0.1
    assert feature_likeness(x, torch.zeros(400, 3)).value == pytest.approx(0, abs=1e-3)


def clusters(seed, labels, apart, d=5):
    """Rows around a centre for each class; the centres are `apart` standard deviations from zero."""
    centres = torch.nn.functional.normalize(torch.randn(4, d, generator=torch.Generator().manual_seed(0)), dim=1)
    return apart * centres[labels] + torch.randn(len(labels), d, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_nearest_means_by_mahalanobis_distance():
    kept_labels, test_labels = torch.arange(90) % 3, torch.arange(200) % 4
    gone = torch.full((8,), 3)  # fewer than are drawn: every draw takes them all
    forget, kept, test = clusters(1, gone, 2.0), clusters(2, kept_labels, 2.0), clusters(3, test_labels, 2.0)
    means = torch.stack([kept[kept_labels == c].mean(0) for c in range(3)])
    inverse = np.linalg.inv(
        LedoitWolf(assume_centered=True).fit((kept - means[kept_labels]).double().numpy()).covariance_
    )
    centres = torch.cat([means, forget.mean(0, keepdim=True)])
    nearest = cdist(test.double(), centres.double(), "mahalanobis", VI=inverse).argmin(1)
    is_gone = (test_labels == 3).numpy()
    expected = (nearest[is_gone] == 3).mean() - (nearest[~is_gone] == 3).mean()
    found = prototypes(forget, gone, kept, kept_labels, test, test_labels == 3)
    assert found.value == pytest.approx(expected)
    assert found.value == pytest.approx(found.rows[0].mean() + found.rows[1].mean())


def test_prototypes_bring_back_a_class_that_the_features_hold_together_and_no_other():
    kept_labels, test_labels = torch.arange(300) % 3, torch.arange(400) % 4
    gone = torch.full((50,), 3)
    sets = {"forget_labels": gone, "kept_labels": kept_labels, "test_is": test_labels == 3}
    held, mixed = (
        prototypes(
            clusters(1, gone, a), kept=clusters(2, kept_labels, a), test=clusters(3, test_labels, a), **sets
        ).value
        for a in (6.0, 0.0)
    )
    assert held > 0.95
    assert abs(mixed) < 0.15
    two = prototypes(
        clusters(1, torch.arange(60) % 2 + 2, 6.0), torch.arange(60) % 2 + 2, clusters(2, torch.arange(90) % 2, 6.0),
        torch.arange(90) % 2, clusters(3, test_labels, 6.0), test_labels >= 2,
    )  # fmt: skip
    assert two.value > 0.95


def test_a_single_row_is_compared_by_its_angle():
    kept_labels, test_labels = torch.arange(90) % 3, torch.arange(200) % 4
    gone = torch.tensor([3])
    forget, kept, test = clusters(1, gone, 2.0), clusters(2, kept_labels, 2.0), clusters(3, test_labels, 2.0)
    means = torch.stack([kept[kept_labels == c].mean(0) for c in range(3)])
    inverse = np.linalg.inv(
        LedoitWolf(assume_centered=True).fit((kept - means[kept_labels]).double().numpy()).covariance_
    )
    centres, middle = torch.cat([means, forget]).double().numpy(), kept.double().numpy().mean(0)
    a, b = test.double().numpy() - middle, centres - middle
    cosine = (a @ inverse @ b.T) / np.sqrt(np.einsum("nd,de,ne->n", b, inverse, b))
    is_gone = (test_labels == 3).numpy()
    expected = (cosine.argmax(1)[is_gone] == 3).mean() - (cosine.argmax(1)[~is_gone] == 3).mean()
    found = prototypes(forget, gone, kept, kept_labels, test, test_labels == 3, rows=1)
    assert found.value == pytest.approx(expected)

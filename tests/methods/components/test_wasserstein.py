"""The barycenter of Gaussians against closed forms and POT, and the streaming moments against one batch."""

import math
import time

import numpy as np
import pytest
import torch

from hf_unlearn.methods.components.wasserstein import (
    StreamingMoments,
    affine_maps,
    gaussian_barycenter,
)


def random_covariances(groups, d, seed=0, condition=100.0):
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(groups):
        q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
        out.append(q @ torch.diag(torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)) @ q.mT)
    return torch.stack(out)


def test_in_one_dimension_the_deviation_is_the_mean_deviation():
    sigma, pi = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = gaussian_barycenter((sigma**2).view(3, 1, 1), pi)
    assert found.sqrt().item() == pytest.approx((pi * sigma).sum().item(), rel=1e-10)


def test_commuting_covariances_average_their_roots():
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    scale, pi = torch.rand(3, 6, dtype=torch.float64) + 0.1, torch.tensor([1.0, 2, 3], dtype=torch.float64)
    found = gaussian_barycenter(q @ torch.diag_embed(scale**2) @ q.mT, pi)
    expected = q @ torch.diag(((pi / 6)[:, None] * scale).sum(0) ** 2) @ q.mT
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("groups", "condition"), [(2, 10.0), (4, 100.0), (3, 1e4)])
def test_barycenter_is_that_of_pot(groups, condition):
    ot = pytest.importorskip("ot")
    covariances = random_covariances(groups, 8, condition=condition)
    pi = torch.arange(1.0, groups + 1).double() / sum(range(1, groups + 1))
    _, theirs = ot.gaussian.bures_wasserstein_barycenter(
        np.zeros((groups, 8)), covariances.numpy(), pi.numpy(), eps=1e-12, num_iter=5000
    )
    np.testing.assert_allclose(gaussian_barycenter(covariances, pi).numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8, 1e11])
def test_maps_carry_every_group_to_the_same_law_and_are_optimal(condition):
    covariances, pi = random_covariances(3, 12, condition=condition), torch.tensor([0.2, 0.3, 0.5]).double()
    means = torch.randn(3, 12, dtype=torch.float64)
    maps, offsets = affine_maps(means, covariances, pi)
    target = gaussian_barycenter(covariances, pi)
    torch.testing.assert_close(
        maps @ covariances @ maps.mT, target.expand(3, -1, -1), atol=1e-9 * target.norm().item(), rtol=0
    )
    centre = (pi[:, None] * means).sum(0).expand(3, -1)
    torch.testing.assert_close((maps @ means[..., None])[..., 0] + offsets, centre)
    # Symmetric and positive: the optimal transport. The maps back average to the identity: the barycenter.
    torch.testing.assert_close(maps, maps.mT)
    assert (torch.linalg.eigvalsh(maps) > 0).all()
    if condition <= 1e4:
        back = (pi[:, None, None] * torch.linalg.inv(maps)).sum(0)
        torch.testing.assert_close(back, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)


def test_no_convergence_is_an_error():
    with pytest.raises(ArithmeticError, match="`max_iter=2`"):
        gaussian_barycenter(random_covariances(3, 10), torch.ones(3), max_iter=2)


@pytest.mark.parametrize(
    ("covariances", "weights", "message"),
    [
        (torch.zeros(2, 3, 3), torch.ones(2), "positive definite"),
        (torch.full((2, 3, 3), math.nan), torch.ones(2), "positive definite"),
        (torch.eye(3), torch.ones(3), "`covariances`"),
        (torch.eye(3).expand(2, 3, 3), torch.ones(3), "`weights`"),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, -1]), "`weights`"),
        (torch.eye(3).expand(2, 3, 3), torch.zeros(2), "`weights`"),
    ],
)
def test_what_is_no_set_of_gaussians_is_refused(covariances, weights, message):
    with pytest.raises(ValueError, match=message):
        gaussian_barycenter(covariances, weights)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_streaming_moments_equal_those_of_one_batch():
    x = torch.randn(500, 7) * 0.01 + 1000  # far from zero: sums of squares would lose every digit
    group = torch.randint(3, (500,))
    moments = StreamingMoments(7)
    for start in range(0, 500, 13):
        moments.update(x[start : start + 13], group[start : start + 13])
    covariances = moments.covariances()
    for k in range(3):
        rows = x[group == k].double()
        assert moments.counts[k] == len(rows)
        torch.testing.assert_close(moments.means[k], rows.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(covariances[k], rows.mT.cov(), rtol=1e-8, atol=1e-13)


def test_streaming_moments_refuse_nan_and_single_samples():
    moments = StreamingMoments(2)
    with pytest.raises(ValueError, match="NaN"):
        moments.update(torch.full((2, 2), math.nan), torch.zeros(2).long())
    moments.update(torch.randn(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="group 1 has 1 samples"):
        moments.covariances()


@pytest.mark.slow
def test_fit_of_20_000_rows_of_256_features_is_fast():
    started = time.perf_counter()
    moments, mix = StreamingMoments(256), torch.randn(4, 256, 256) / 16 + 0.3 * torch.eye(256)
    for _ in range(157):
        x, group = torch.randn(128, 256), torch.randint(4, (128,))
        moments.update((x @ mix)[group, torch.arange(128)], group)
    maps, _ = affine_maps(torch.stack(moments.means), moments.covariances(), torch.tensor(moments.counts))
    mapped = maps @ moments.covariances() @ maps.mT
    torch.testing.assert_close(mapped, mapped[:1].expand_as(mapped), atol=1e-7, rtol=0)
    assert time.perf_counter() - started < 60

"""The trust region: every step has the length that was asked for."""

import math

import pytest
import torch

from hf_unlearn.methods.components.trust_region import TrustRegion


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 4)])
def test_step_is_rho_times_the_norm_of_the_tensor_or_its_floor(shape, scale):
    rho, floor = 0.03, 0.01
    parameter = torch.nn.Parameter(scale * torch.randn(shape, dtype=torch.float64))
    before = parameter.detach().clone()
    gradient = torch.randn(shape, dtype=torch.float64) * 1e3
    parameter.grad = gradient.clone()
    TrustRegion([parameter], lr=rho, floor=floor).step()
    moved = parameter.detach() - before
    radius = rho * max(before.norm().item(), floor * math.sqrt(before.numel()))
    # compared at the size of the parameter, where the difference is rounded
    assert moved.norm().item() == pytest.approx(radius, rel=1e-12, abs=1e-15 * before.norm().item())
    assert torch.allclose(moved / moved.norm(), -gradient / gradient.norm(), rtol=0, atol=1e-10)


def test_each_tensor_has_its_own_radius_whatever_the_loss_scale():
    for factor in (1e-8, 1.0, 1e8):
        small, large = (torch.nn.Parameter(s * torch.ones(4, dtype=torch.float64)) for s in (1.0, 100.0))
        small.grad, large.grad = (factor * torch.ones(4, dtype=torch.float64) for _ in range(2))
        TrustRegion([small, large], lr=0.1).step()
        assert torch.allclose(small.detach(), torch.full((4,), 0.9, dtype=torch.float64), rtol=1e-12)
        assert torch.allclose(large.detach(), torch.full((4,), 90.0, dtype=torch.float64), rtol=1e-12)


def test_no_gradient_or_a_zero_one_moves_nothing():
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    parameters[0].grad, parameters[2].grad = torch.zeros(3), torch.ones(3)
    TrustRegion(parameters, lr=0.1).step()
    assert torch.equal(parameters[0], torch.ones(3))
    assert torch.equal(parameters[1], torch.ones(3))
    assert not torch.equal(parameters[2], torch.ones(3))
    TrustRegion(parameters[1:2], lr=0.1).step()


@pytest.mark.parametrize("lr", [0.0, -0.1, 1.0, 30.0])
def test_radius_outside_its_range_is_refused(lr):
    with pytest.raises(ValueError, match="`trust_region`"):
        TrustRegion([torch.nn.Parameter(torch.ones(1))], lr=lr)


def test_closure_is_called_with_gradients():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = TrustRegion([parameter], lr=0.1)

    def closure():
        loss = parameter.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2.0
    assert torch.allclose(parameter.detach(), torch.full((2,), 0.9))

"""The search for a step length, and the line that it searches."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods.components.step_length import Ray, farthest


def test_search_finds_where_a_condition_starts_to_hold():
    for edge in (3e-4, 0.07, 0.9):
        for guess in (1e-6, edge, 1.0, 30.0):
            assert farthest(lambda s, edge=edge: s > edge, guess, 1.0) == pytest.approx(edge, rel=0.11)
    assert farthest(lambda s: False, 0.3, 1.0) == 1.0
    assert farthest(lambda s: True, 0.3, 1.0) == 0.0


def test_a_ray_is_the_line_from_the_weights_clipped_in_each_layer():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias.zero_()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    layers = {"body": ["0.weight", "0.bias"], "head": ["1.weight", "1.bias"]}
    move = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    size = {k: torch.cat([before[n].flatten() for n in names]).norm() for k, names in layers.items()}
    length = {k: torch.cat([move[n].flatten() for n in names]).norm() for k, names in layers.items()}
    ray = Ray(model, layers, move, clip=0.3)
    for layer in layers:
        assert ray.lengths[layer] == pytest.approx((length[layer] / size[layer]).item(), rel=1e-5)
    for s in (0.0, 1e-3, 0.05, 10.0):
        ray.move_to(s)
        moves, norms = ray.moved_by()
        for layer, names in layers.items():
            expected = min(s, (0.3 * size[layer] / length[layer]).item())
            assert norms[layer] == pytest.approx((expected * length[layer] / size[layer]).item(), rel=1e-3, abs=1e-7)
            for n in names:
                assert torch.allclose(model.get_parameter(n), before[n] + expected * move[n], atol=1e-6), n
                assert torch.allclose(moves[n], expected * move[n], atol=1e-6), n


def test_a_layer_of_zeros_may_move_and_one_without_displacement_is_not_limited():
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.zero_()
    move = {"weight": torch.ones(4, 4), "bias": torch.zeros(4)}
    ray = Ray(model, {"a": ["weight"], "b": ["bias"]}, move, clip=0.5)
    ray.move_to(1.0)
    assert ray.moved_by()[1] == pytest.approx({"a": 0.5, "b": 0.0})
    assert model.weight.norm().item() == pytest.approx(0.5 * 0.01 * 4)  # a root mean square of 0.01 counts at least

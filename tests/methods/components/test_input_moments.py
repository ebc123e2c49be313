"""Second moments of the inputs of layers, and what a layer gives back, against brute force and closed forms."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods.components.input_moments import RIDGE, excess_filter, second_moments
from hf_unlearn.models.forward import eval_mode, model_inputs, on_device
from tests.methods.components.test_rewinding import prepared


def spread(seed, size=6, scale=1.0):
    x = torch.randn(40, size, generator=torch.Generator().manual_seed(seed)) * scale
    return (x.T @ x / 40).double()


def test_a_direction_goes_back_by_what_forget_rows_have_more_of_it():
    retain, forget = torch.tensor([1.0, 2.0, 1.0, 0.5]), torch.tensor([3.0, 2.0, 0.1, 1.0])
    ridge = RIDGE * retain.mean()
    ratio = (forget + ridge) / (retain + ridge)
    excess = 4 * (ratio - 1).clamp_min(0)
    found = excess_filter(retain.diag(), forget.diag(), 4.0)
    torch.testing.assert_close(found, (excess / (1 + excess)).diag().double(), atol=1e-6, rtol=1e-5)
    assert found.diagonal()[1:3].abs().max() < 1e-6


def test_with_more_of_everything_it_is_a_ridge_solution():
    """Then there is nothing to clamp, and Δ − ΔP = Δ C_r (C_r + λ (C_f − C_r))⁻¹, a least-squares merge."""
    retain = spread(0)
    forget = retain + spread(1)
    ridge = RIDGE * retain.trace() / 6 * torch.eye(6, dtype=torch.double)
    merged = (retain + ridge) @ torch.linalg.inv(retain + ridge + 3 * (forget - retain))
    torch.testing.assert_close(torch.eye(6, dtype=torch.double) - excess_filter(retain, forget, 3.0), merged)


def test_nothing_goes_back_where_both_sides_read_the_same():
    assert excess_filter(spread(0), spread(0), 16.0).abs().max() < 1e-5
    assert excess_filter(spread(0), spread(1), 0.0).abs().max() == 0


def test_units_and_rotations_of_the_inputs_do_not_matter():
    turn = torch.linalg.qr(spread(3))[0]
    retain, forget = spread(0), spread(1)
    found = excess_filter(100 * turn @ retain @ turn.T, 100 * turn @ forget @ turn.T, 5.0)
    torch.testing.assert_close(found, turn @ excess_filter(retain, forget, 5.0) @ turn.T)


@pytest.mark.parametrize("arch", ["bert", "vit"])
def test_moments_are_those_of_single_rows_without_padding(tmp_path, arch):
    run, kept = prepared(arch, tmp_path)
    model = run.model
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    before = [len(m._forward_pre_hooks) for m in model.modules()]
    found = second_moments(run, layers, kept)
    assert [len(m._forward_pre_hooks) for m in model.modules()] == before
    seen: dict[str, list] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _layer, inputs, name=name: seen[name].append(inputs[0].detach().flatten(0, -2))
        )
    with torch.no_grad(), eval_mode(model):
        for row in kept:  # one at a time: there is no padding
            model(**model_inputs(on_device(model, run.processor.collate([row]))))
    for name, (first, moment) in found.items():
        x = torch.cat(seen[name])
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        torch.testing.assert_close(moment, x.T @ x / len(x), atol=1e-4, rtol=1e-4)
        assert moment[-1, -1] == 1
        assert first in layers
    names = {name.rpartition(".")[2]: first for name, (first, _) in found.items() if ".0." in name}
    reading = [
        first for name, first in names.items() if name in ("query", "key", "value", "q_proj", "k_proj", "v_proj")
    ]
    assert len(reading) == 3
    assert len(set(reading)) == 1
    assert len({first for first, _ in found.values()}) < len(layers)

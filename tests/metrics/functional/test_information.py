"""Mutual information against the joint table, the paper's estimator, closed forms and samples; and its bounds."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from hf_unlearn.metrics.functional.information import (
    conditional_information,
    disjoint_information,
    entropy,
    group_information,
    information_bounds,
    marginal_information,
)


def vectors(*shape, seed=0, sharpness=2.0):
    """Random probability vectors in fp64, from nearly uniform to nearly one-hot."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def brute_force(joint):
    """I of a joint table (K, C), cell by cell."""
    total = 0.0
    for k in range(joint.shape[0]):
        for c in range(joint.shape[1]):
            p = joint[k, c].item()
            if p > 0:
                total += p * math.log(p / (joint[k].sum().item() * joint[:, c].sum().item()))
    return total


def official(retain, forget):
    """The paper's estimator on a batch of softmax outputs: every retain row is in both data sets, forget rows in one."""
    union = torch.cat([retain, forget])
    joint = torch.stack([union.sum(0), retain.sum(0)]) / (len(union) + len(retain))
    return (joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))).log()).sum()


@pytest.mark.parametrize("seed", range(20))
def test_group_information_is_that_of_the_joint_table(seed):
    rng = np.random.default_rng(seed)
    groups, classes = rng.integers(2, 6, 2)
    means, counts = vectors(groups, classes, seed=seed), torch.tensor(rng.integers(1, 50, groups))
    joint = means * (counts / counts.sum(dtype=torch.float64))[:, None]
    assert group_information(means, counts).item() == pytest.approx(brute_force(joint), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_marginal_information_is_the_official_estimator_value_and_gradient(seed):
    n_retain, n_forget = 3 + seed, 1 + seed // 2
    logits = [torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (n_retain, n_forget)]
    retain, forget = (x.softmax(-1) for x in logits)
    ours = marginal_information(retain.mean(0), forget.mean(0), n_retain, n_forget)
    theirs = official(retain, forget)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)
    for a, b in zip(
        torch.autograd.grad(ours, logits, retain_graph=True), torch.autograd.grad(theirs, logits), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_gradient_is_the_closed_form_along_the_simplex(seed):
    n_retain, n_forget = 7, 1 + seed
    total, rho = 2 * n_retain + n_forget, n_forget / (n_retain + n_forget)
    p = vectors(2, 6, seed=seed).requires_grad_()
    marginal_information(p[0], p[1], n_retain, n_forget).backward()
    m1, m0 = p[0].detach(), ((1 - rho) * p[0] + rho * p[1]).detach()
    m = (n_retain + n_forget) / total * m0 + n_retain / total * m1
    expected = torch.stack([n_retain / total * ((m0 / m).log() + (m1 / m).log()), n_forget / total * (m0 / m).log()])
    # Only directions that keep the sum at 1 count: a constant per row is free.
    expected, found = (g - g.mean(-1, keepdim=True) for g in (expected, p.grad))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_gradients_pass_finite_differences():
    def of_logits(x):
        return conditional_information(x.softmax(-1), torch.tensor([[3, 0, 2], [1, 5, 2]]))

    assert torch.autograd.gradcheck(of_logits, torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("n_retain", "n_forget"), [(64, 16), (5, 5), (1, 99)])
def test_disjoint_outputs_reach_the_greatest_value(n_retain, n_forget):
    total, rho = 2 * n_retain + n_forget, n_forget / (n_retain + n_forget)
    pi = torch.tensor([(n_retain + n_forget) / total, n_retain / total], dtype=torch.float64)
    expected = entropy(pi).item() - (1 - pi[0].item() * rho) * math.log(2)
    assert disjoint_information(n_retain, n_forget).item() == pytest.approx(expected, abs=1e-12)
    for seed in range(50):
        p = vectors(2, 4, seed=seed, sharpness=5.0)
        assert marginal_information(p[0], p[1], n_retain, n_forget).item() <= expected
    # Disjoint supports of any shape.
    p = torch.tensor([[0.3, 0.7, 0, 0], [0, 0, 0.1, 0.9]], dtype=torch.float64)
    assert marginal_information(p[0], p[1], n_retain, n_forget).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_information_lies_between_zero_and_the_entropy_of_the_group(dtype):
    for seed in range(200):
        p = vectors(2, 5, seed=seed, sharpness=6.0).to(dtype)
        value = group_information(p, [seed % 7 + 1, 4]).item()
        assert -1e-6 <= value <= math.log(2) + 1e-6
    assert group_information(torch.eye(3, dtype=dtype), [1, 1, 1]).item() == pytest.approx(math.log(3), abs=1e-6)
    same = vectors(1, 5).to(dtype).expand(3, 5)
    assert group_information(same, [1, 2, 3]).item() == pytest.approx(0, abs=1e-6)


def test_order_of_classes_and_groups_and_the_scale_of_counts_do_not_matter():
    p, n = vectors(3, 6), torch.tensor([4.0, 1, 9])
    value = group_information(p, n).item()
    assert group_information(p[:, torch.randperm(6)], n).item() == pytest.approx(value, abs=1e-12)
    assert group_information(p.flip(0), n.flip(0)).item() == pytest.approx(value, abs=1e-12)
    assert group_information(p, 10 * n).item() == pytest.approx(value, abs=1e-12)


def test_precision_is_at_least_fp32():
    p = vectors(2, 4)
    for dtype, expected in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ]:
        assert group_information(p.to(dtype), [1, 2]).dtype == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = group_information(p.float(), [1, 2])
    assert inside.item() == pytest.approx(group_information(p, [1, 2]).item(), abs=1e-6)


def test_empty_groups_are_ignored_and_leave_no_nan_behind():
    p = vectors(3, 4)
    p[1] = math.nan  # the mean over no sample
    p.requires_grad_()
    value = group_information(p, [3, 0, 5])
    assert value.item() == pytest.approx(group_information(p.detach()[[0, 2]], [3, 5]).item(), abs=1e-12)
    value.backward()
    assert torch.isfinite(p.grad).all()
    assert (p.grad[1] == 0).all()
    for n_retain, n_forget, empty in [(4, 0, 1), (0, 4, 0)]:
        sides = vectors(2, 4)
        sides[empty] = math.nan
        sides.requires_grad_()
        value = marginal_information(sides[0], sides[1], n_retain, n_forget)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert torch.isfinite(sides.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_softmax_has_a_finite_gradient(dtype):
    logits = torch.tensor([[2000.0, 0, 0], [0, 2000.0, 0], [0, 0, 0]], dtype=dtype, requires_grad=True)
    group_information(logits.softmax(-1), [1, 2, 3]).backward()
    assert torch.isfinite(logits.grad).all()


def test_conditional_information_is_the_mean_over_labels():
    p, n = vectors(3, 2, 4), torch.tensor([[3.0, 1], [2, 2], [5, 0]])
    parts = [group_information(p[y], n[y]).item() * n[y].sum().item() / n.sum().item() for y in range(3)]
    assert parts[2] == pytest.approx(0, abs=1e-12)
    assert conditional_information(p, n).item() == pytest.approx(sum(parts), abs=1e-12)
    unused = torch.cat([p, torch.full((1, 2, 4), math.nan, dtype=p.dtype)])
    n = torch.cat([n, torch.zeros(1, 2)])
    assert conditional_information(unused, n).item() == pytest.approx(sum(parts), abs=1e-12)


def test_sampled_classes_have_the_same_information_in_the_limit():
    rng = np.random.default_rng(0)
    p = vectors(3, 5, sharpness=1.0)
    group = rng.integers(0, 3, 300_000)
    classes = (rng.random((len(group), 1)) > p.numpy().cumsum(-1)[group]).sum(-1)
    truth = group_information(p, np.bincount(group)).item()
    assert mutual_info_score(group, classes) == pytest.approx(truth, abs=3e-3)


@pytest.mark.parametrize(
    ("means", "counts", "said"),
    [
        (torch.ones(2, 1), [1, 1], "1 classes"),
        (torch.full((1, 4), 0.25), [1], "1 groups"),
        (torch.full((2, 4), 0.25), [1, 1, 1], "`counts`"),
    ],
)
def test_what_cannot_carry_information_is_refused(means, counts, said):
    with pytest.raises(ValueError, match=said):
        group_information(means, counts)


def test_marginal_information_refuses_different_classes():
    with pytest.raises(ValueError, match="differ in shape"):
        marginal_information(torch.ones(3) / 3, torch.ones(4) / 4, 1, 1)


def test_bounds_hold_on_random_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(2000):
        classes = 2 + case % 9
        p = vectors(2, classes, seed=case, sharpness=0.05 * (1 + case % 100))
        pi0 = torch.rand((), generator=generator).clamp(0.01, 0.99).item()
        b = information_bounds(p[0], p[1], pi0)
        assert b.total_variation <= b.total_variation_bound + 1e-9
        assert max(pi0, 1 - pi0) - 1e-9 <= b.attacker_accuracy <= b.attacker_bound + 1e-9
        assert b.information <= b.information_bound + 1e-9 <= b.epsilon**2 / 4 + 2e-9


def test_bounds_of_certain_and_of_equal_groups():
    apart = information_bounds(torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), 0.5)
    assert (apart.total_variation, apart.attacker_accuracy) == (1, 1)
    assert apart.information == pytest.approx(math.log(2))
    assert apart.epsilon is None
    assert apart.information_bound is None
    same = information_bounds(torch.tensor([0.2, 0.8, 0]), torch.tensor([0.2, 0.8, 0]), 0.7)
    assert same.information == pytest.approx(0, abs=1e-12)
    assert (same.epsilon, same.information_bound) == (0, 0)
    assert same.attacker_accuracy == pytest.approx(0.7)


def test_bounds_refuse_what_are_not_two_groups():
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="`pi0`"):
        information_bounds(half, half, 1.0)
    with pytest.raises(ValueError, match="`m1`"):
        information_bounds(half, torch.ones(3) / 3, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        information_bounds(half, torch.tensor([math.nan, 1]), 0.5)

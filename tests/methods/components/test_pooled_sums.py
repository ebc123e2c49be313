"""Sums over parts of a batch: value and gradient of the whole, by whatever way it was cut."""

import pytest
import torch

from hf_unlearn.methods.components.pooled_sums import PooledSums, class_sums, means
from hf_unlearn.metrics.functional.information import group_information


def information(totals):
    return group_information(*means(totals))


def sample(n=24, classes=5, groups=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(groups, (n,), generator=generator)


def own(logits, cells, part=slice(None), groups=3):
    return class_sums(logits[part].softmax(-1), cells[part], groups)


def test_class_sums_are_a_loop_over_rows():
    logits, cells = sample()
    expected = torch.zeros(3, 6, dtype=torch.float64)
    for p, c in zip(logits.softmax(-1).detach(), cells.tolist(), strict=True):
        expected[c, :5] += p
        expected[c, 5] += 1
    assert torch.allclose(own(logits, cells), expected, atol=1e-12)


@pytest.mark.parametrize("slices", [[slice(None)], [slice(i, None, 3) for i in range(3)], [slice(20), slice(20, None)]])
def test_parts_have_the_value_and_gradient_of_the_whole(slices):
    logits, cells = sample()
    (whole,) = torch.autograd.grad(information(own(logits, cells)), logits)
    value = information(own(logits, cells)).item()
    pool = PooledSums()
    if len(slices) > 1:
        pool.start_step([own(logits, cells, s).detach() for s in slices])
    gradient = torch.zeros_like(logits)
    for part in slices:
        share = len(cells[part]) / len(cells)
        term = pool.term(information(pool(own(logits, cells, part))), share)
        assert term.item() == pytest.approx(value, abs=1e-12)
        gradient += torch.autograd.grad(share * term, logits)[0]  # the trainer weights parts so
    assert torch.allclose(gradient, whole, atol=1e-12)


def test_small_batches_one_by_one_are_not_the_whole():
    """What pooling is for: the mean over parts is biased upwards, and points elsewhere."""
    logits, cells = sample()
    parts = [slice(i, None, 4) for i in range(4)]
    apart = torch.stack([information(own(logits, cells, s)) for s in parts]).mean()
    whole = information(own(logits, cells))
    assert apart > 1.5 * whole
    a, b = (torch.autograd.grad(x, logits)[0].flatten() for x in (apart, whole))
    assert torch.cosine_similarity(a, b, dim=0) < 0.9


def test_memory_is_an_exponentially_decayed_sum_with_the_gradient_scale_of_one_batch():
    pool, decayed = PooledSums(memory=0.5), torch.zeros(3, 6, dtype=torch.float64)
    for step in range(4):
        logits, cells = sample(seed=step)
        now = own(logits, cells)
        decayed = 0.5 * decayed + now.detach()
        out = pool(now)
        assert torch.allclose(out.detach(), decayed, atol=1e-12)
        (gradient,) = torch.autograd.grad(out[:, :-1].sum(), now)
        assert torch.allclose(gradient[:, :-1], torch.tensor(sum(0.5**k for k in range(step + 1)), dtype=torch.float64))
        pool.end_step()
    again = PooledSums(memory=0.5)
    again.load_state(pool.state())
    logits, cells = sample(seed=9)
    assert torch.allclose(again(own(logits, cells).float()), pool(own(logits, cells)).float(), rtol=1e-5)


def test_a_cell_that_is_missing_keeps_its_past_and_without_one_counts_nothing():
    logits, _ = sample(8)
    pool = PooledSums(memory=0.9)
    pool(own(logits, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))).sum().backward()
    pool.end_step()
    logits.grad = None
    value = information(pool(own(logits, torch.zeros(8, dtype=torch.long))))
    value.backward()
    assert torch.isfinite(logits.grad).all()
    assert value > 0
    alone = PooledSums()
    lonely = information(alone(own(logits, torch.zeros(8, dtype=torch.long))))
    assert lonely.item() == pytest.approx(0, abs=1e-12)


def test_a_loaded_past_follows_the_sums_to_their_device():
    pool = PooledSums(memory=0.5)
    pool.load_state({"past": [[1.0, 2.0]], "weight": 1.0})
    assert pool(torch.ones(1, 2, device="meta")).device.type == "meta"

"""The audit against the plug-in estimate, the truth in the limit, and what it refuses."""

import json
import math
import time

import numpy as np
import pytest
import torch

from hf_unlearn.metrics.functional.information import conditional_information, entropy, group_information
from hf_unlearn.metrics.functional.information_audit import audit


def outputs(n, shift, seed, classes=4):
    """Softmax outputs that lean to class 0 by `shift` in group 1."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(2, (n,), generator=generator)
    logits = 2 * torch.randn(n, classes, generator=generator)
    logits[:, 0] += shift * group
    return logits.softmax(-1), group


def test_audit_value_is_the_plug_in_estimate():
    p, group = outputs(500, 1.0, 0)
    means = torch.stack([p[group == k].double().mean(0) for k in (0, 1)])
    found = audit(p, group, resamples=100)
    assert found.value == pytest.approx(group_information(means, group.bincount()).item(), abs=1e-7)
    assert found.counts == {"0": (group == 0).sum().item(), "1": (group == 1).sum().item()}
    assert found.normalised == pytest.approx(found.value / entropy(group.bincount().double() / 500).item(), abs=1e-6)
    assert found.bounds.information == pytest.approx(found.value, abs=1e-12)
    assert json.loads(json.dumps(found.as_dict()))["bounds"]["total_variation"] == found.bounds.total_variation


def test_audit_with_labels_is_the_conditional_estimate():
    p, group = outputs(600, 1.0, 0)
    label = torch.arange(600) % 3
    means = torch.stack(
        [torch.stack([p[(group == k) & (label == y)].double().mean(0) for k in (0, 1)]) for y in range(3)]
    )
    counts = torch.tensor([[((group == k) & (label == y)).sum() for k in (0, 1)] for y in range(3)])
    found = audit(p, group, label, resamples=100)
    assert found.value == pytest.approx(conditional_information(means, counts).item(), abs=1e-7)
    assert found.conditional
    assert found.bounds is None


def test_audit_sees_through_a_label_that_explains_the_group():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (2000,), generator=generator)
    group = torch.where(torch.rand(2000, generator=generator) < 0.9, label, 1 - label)
    p = (3.0 * torch.eye(2)[label] + torch.randn(2000, 2, generator=generator)).softmax(-1)
    pooled, conditional = audit(p, group, resamples=100), audit(p, group, label, resamples=100)
    assert pooled.low > pooled.null_high
    assert conditional.value <= 2 * conditional.null_high < pooled.value / 20


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_interval_covers_the_truth(shift):
    p, group = outputs(400_000, shift, 10_000)
    means = torch.stack([p[group == k].double().mean(0) for k in (0, 1)])
    truth = group_information(means, [1, 1]).item() if shift else 0.0
    trials = [audit(*outputs(300, shift, seed), resamples=200) for seed in range(60)]
    assert np.mean([a.low <= truth <= a.high for a in trials]) >= 0.88  # 95 % less three standard errors
    above = np.mean([a.value > a.null_high for a in trials])
    assert above >= 0.7 if shift else above <= 0.15


def test_audit_depends_on_the_seed_alone():
    p, group = outputs(200, 1.0, 0)
    torch.manual_seed(1)
    first = audit(p, group, resamples=100, seed=3)
    torch.manual_seed(2)
    assert audit(p, group, resamples=100, seed=3) == first
    assert audit(p, group, resamples=100, seed=4).high != first.high
    named = audit(p.numpy(), ["one" if g else "nil" for g in group], resamples=100, seed=3)
    assert (named.value, named.low, named.high) == (first.value, first.low, first.high)


def test_audit_of_three_groups_has_no_two_group_bounds():
    p, _ = outputs(300, 0.0, 0)
    found = audit(p, np.arange(300) % 3, resamples=100)
    assert found.bounds is None
    assert len(found.counts) == 3
    assert 0 <= found.low <= found.high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": torch.ones(6, 1)}, "1 classes"),
        ({"groups": [0] * 6}, "1 groups"),
        ({"groups": [0, 1]}, "`groups` has 2 values for 6"),
        ({"groups": [0, 1, 0, 1, 0, None]}, "`groups` holds missing"),
        ({"groups": [0, 1, 0, 1, 0, math.nan]}, "`groups` holds missing"),
        ({"labels": [0, 1]}, "`labels` has 2"),
        ({"probabilities": torch.full((6, 2), math.nan)}, "NaN"),
        ({"probabilities": torch.full((6, 2), 3.0)}, "softmax"),
        ({"probabilities": torch.ones(6)}, "shape"),
        ({"level": 1.0}, "`level`"),
        ({"resamples": 10}, "`resamples=10`"),
    ],
)
def test_audit_refuses_bad_input(change, said):
    good = {"probabilities": torch.full((6, 2), 0.5), "groups": [0, 1] * 3}
    with pytest.raises(ValueError, match=said):
        audit(**{**good, **change})


@pytest.mark.slow
def test_audit_of_100_000_rows_takes_seconds():
    p, group = outputs(100_000, 0.5, 0, classes=10)
    started = time.perf_counter()
    audit(p, group)
    assert time.perf_counter() - started < 60

"""Distances to the retrained model against SciPy and by symmetry."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from hf_unlearn.metrics.functional.distance import (
    agreement,
    average_gap,
    divergences,
    jensen_shannon,
    jensen_shannon_distance,
    tug_of_war,
    zero_retrain_forgetting,
)


def test_two_sided_distances_count_over_forgetting():
    retrained = [0.9, 0.9, 0.9]
    assert tug_of_war([0.8, 0.9, 0.9], retrained) == pytest.approx(tug_of_war([1.0, 0.9, 0.9], retrained))
    assert average_gap([0.8, 0.9, 0.9], retrained) == pytest.approx(average_gap([1.0, 0.9, 0.9], retrained))
    assert tug_of_war(retrained, retrained) == 1
    assert average_gap(retrained, retrained) == 0


def test_half_precision_and_gradients_do_not_matter():
    logits = torch.tensor([[2.0, 1.0], [0.5, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    assert jensen_shannon(logits, logits) == 0
    assert agreement(logits, [[2.0, 1.0], [0.5, 4.0]]) == 1


def test_jensen_shannon_is_that_of_scipy():
    ours, theirs = np.random.default_rng(0).normal(0, 2, (2, 30, 5))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (ours, theirs))
    distances = jensenshannon(p, q, axis=1)  # the root of the divergence in nats
    np.testing.assert_allclose(divergences(ours, theirs), distances**2, rtol=1e-9)
    assert jensen_shannon(ours, theirs) == pytest.approx((distances**2).mean())
    assert jensen_shannon_distance(ours, theirs) == pytest.approx(distances.mean() / math.sqrt(math.log(2)))
    assert zero_retrain_forgetting(ours, theirs) == pytest.approx(1 - (jensenshannon(p, q, 2, axis=1) ** 2).mean())

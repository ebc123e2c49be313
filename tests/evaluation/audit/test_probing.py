"""Probes of features."""

import numpy as np
import pytest
import torch

from hf_unlearn.evaluation.audit.probing import class_probe, feature_similarity, membership_probe


def test_probes_separate_features_that_differ_and_no_others():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)), dtype=torch.float32)
    side = torch.arange(400) % 4 == 0
    shifted = x + 3 * side[:, None]
    assert class_probe(shifted[:200], side[:200], shifted[200:], side[200:]).value > 0.95
    assert abs(class_probe(x[:200], side[:200], x[200:], side[200:]).value - 0.5) < 0.15
    assert membership_probe(shifted[side], shifted[~side]).value > 0.95
    assert abs(membership_probe(x[:150], x[150:]).value - 0.5) < 0.1
    rotation = torch.linalg.qr(torch.tensor(rng.normal(size=(6, 6)), dtype=torch.float32))[0]
    assert feature_similarity(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert feature_similarity(x, x[torch.randperm(400)]) < 0.1

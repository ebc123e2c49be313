"""Probes of features."""

import numpy as np
import pytest
import torch

from hf_unlearn.evaluation.audit.probing import class_probe, feature_similarity, membership_probe


def test_probes_find_what_is_there_and_nothing_where_there_is_nothing():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)), dtype=torch.float32)
    side = torch.arange(400) % 4 == 0
    told = x + 3 * side[:, None]
    assert class_probe(told[:200], side[:200], told[200:], side[200:]).value > 0.95
    assert abs(class_probe(x[:200], side[:200], x[200:], side[200:]).value - 0.5) < 0.15
    assert membership_probe(told[side], told[~side]).value > 0.95
    assert abs(membership_probe(x[:150], x[150:]).value - 0.5) < 0.1
    rotation = torch.linalg.qr(torch.tensor(rng.normal(size=(6, 6)), dtype=torch.float32))[0]
    assert feature_similarity(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert feature_similarity(x, x[torch.randperm(400)]) < 0.1

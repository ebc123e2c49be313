"""Values of the Jensen-Shannon divergence and of the entropy attack that are known in closed form."""

import math

import pytest
import torch

from hf_unlearn.metrics.functional.distance import jensen_shannon
from hf_unlearn.metrics.functional.membership import entropy_attack, prediction_entropy


def test_jensen_shannon_has_its_known_values():
    apart = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert jensen_shannon(apart, apart.flip(1)) == pytest.approx(math.log(2))
    assert jensen_shannon(apart, apart) == 0
    a, b = torch.randn(9, 5), torch.randn(9, 5)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 < jensen_shannon(a, b) < math.log(2)
    assert math.isfinite(jensen_shannon(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]])))


def test_entropy_has_its_known_values():
    logits = torch.tensor([[0.0] * 8, [200.0] + [0.0] * 7, [0.0, 0.0] + [-200.0] * 6])
    assert prediction_entropy(logits) == pytest.approx([math.log(8), 0, math.log(2)], abs=1e-12)


def test_entropy_attack_calls_confident_samples_members():
    generator = torch.Generator().manual_seed(0)
    sure = torch.randn(60, 6, generator=generator) * 8
    unsure = torch.randn(60, 6, generator=generator) * 0.3
    assert entropy_attack(sure[:40], unsure[:40], sure[40:]) > 0.9
    assert entropy_attack(sure[:40], unsure[:40], unsure[40:]) < 0.1
    mixed = torch.cat([sure[40:50], unsure[40:50]])
    assert entropy_attack(sure[:40], unsure[:40], mixed) == pytest.approx(0.5, abs=0.1)
    assert entropy_attack(sure[:4], unsure[:40], mixed) == pytest.approx(0.5, abs=0.1), "classes are balanced"

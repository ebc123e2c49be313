"""The terms that several methods share, against their definitions."""

import pytest
import torch

from hf_unlearn.methods.components.losses import cross_entropy, kl_to_target, total_variation
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from tests.support.data import CLASSES
from tests.support.models import trained
from tests.support.runs import forget_batch


def test_kl_is_the_mean_over_the_batch_in_nats():
    target, logits = torch.rand(6, CLASSES).softmax(-1), torch.randn(6, CLASSES)
    target[:, 2] = 0
    target /= target.sum(-1, keepdim=True)
    p, q = target.double(), logits.double().softmax(-1)
    expected = sum(p[i, c] * (p[i, c] / q[i, c]).log() for i in range(6) for c in range(CLASSES) if p[i, c] > 0) / 6
    assert kl_to_target(target, logits).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_to_target(logits.softmax(-1), logits).item() == pytest.approx(0, abs=1e-6)


def test_total_variation_is_a_loop_over_pairs_of_adjacent_pixels():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = 0.0
    for row in range(4):
        for column in range(5):
            if row:
                expected += (x[..., row, column] - x[..., row - 1, column]).abs().sum().item()
            if column:
                expected += (x[..., row, column] - x[..., row, column - 1]).abs().sum().item()
    assert total_variation(x).item() == pytest.approx(expected, rel=1e-12)
    assert total_variation(torch.ones(1, 1, 3, 3)).item() == 0


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_cross_entropy_has_dropout_in_training_mode_only(mode):
    model, side = trained("vit", dropout=0.1).train(), forget_batch("vit")["forget"]
    with eval_mode(model), torch.no_grad():
        logits = classify(model, model_inputs(side)).double()
    plain = -logits.log_softmax(-1)[torch.arange(len(logits)), side["labels"]].mean().item()
    found = [cross_entropy(model, side, mode).item() for _ in range(2)]
    assert (found[0] == found[1] == pytest.approx(plain, rel=1e-5)) == (mode == "eval")
    assert model.training

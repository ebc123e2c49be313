"""NegGrad+ is weighted descent on retain rows and an ascent on forget rows that is bounded at log C."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import NegGradPlus
from tests.methods.baselines import close, logits_of, recorded, replayed, run_of
from tests.support.models import state, trained
from tests.support.runs import forget_batch


@pytest.mark.parametrize(("arch", "bounded"), [("vit", True), ("bert", False)])
def test_steps_are_those_of_the_algorithm(tmp_path, arch, bounded):
    trainer = run_of(arch, tmp_path, NegGradPlus(retain_share=0.7, bounded=bounded))
    batches = recorded(trainer)

    def loss(model, batch, step):
        up = F.cross_entropy(logits_of(model, batch["forget"]), batch["forget"]["labels"], reduction="none")
        up = torch.where(up < math.log(4), up, torch.full_like(up, math.log(4))) if bounded else up
        down = F.cross_entropy(logits_of(model, batch["retain"]), batch["retain"]["labels"])
        return 0.7 * down - 0.3 * up.mean()

    close(state(trainer.model), replayed(trained(arch), batches, loss))


def test_a_row_at_the_bound_pulls_no_more():
    model, batch = trained("vit"), forget_batch("vit")
    batch["forget"]["labels"] = (batch["forget"]["labels"] + 1) % 4  # the model is sure that these are wrong
    bounded, free = (NegGradPlus(bounded=b).loss(model, batch, None)["forget"] for b in (True, False))
    assert bounded.item() == pytest.approx(-0.1 * math.log(4), rel=1e-5)
    assert free < bounded
    (gradient,) = torch.autograd.grad(bounded, model.classifier.bias)
    assert not gradient.any()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_of_the_loss_is_refused(share):
    with pytest.raises(ValueError, match=r"`retain_share` is a share of the loss, in \(0, 1\), got"):
        NegGradPlus(retain_share=share)

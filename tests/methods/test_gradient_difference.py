"""Gradient difference is descent on the retain set minus weighted ascent on the forget set."""

import pytest

from hf_unlearn import GradientDifference
from tests.methods.support import mean_nll
from tests.support.models import trained
from tests.support.runs import forget_batch


@pytest.mark.parametrize("arch", ["vit", "bert"])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_terms_are_the_two_cross_entropies(arch, weight):
    model, batch = trained(arch).train(), forget_batch(arch)
    terms = GradientDifference(forget_weight=weight).loss(model, batch, None)
    assert terms["forget"].item() == pytest.approx(-weight * mean_nll(model, batch["forget"]), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(mean_nll(model, batch["retain"]), rel=1e-5)
    assert model.training

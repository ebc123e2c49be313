"""Gradient ascent climbs the cross-entropy of the forget set."""

import pytest

from hf_unlearn import GradientAscent
from tests.methods.support import mean_nll
from tests.support.models import changed, state, trained
from tests.support.runs import SGD, forget_batch, trainer_for


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_loss_is_the_negative_cross_entropy_of_the_forget_rows(arch):
    model, batch = trained(arch).train(), forget_batch(arch)
    terms = GradientAscent().loss(model, batch, None)
    assert set(terms) == {"forget"}
    assert terms["forget"].item() == pytest.approx(-mean_nll(model, batch["forget"]), rel=1e-5)
    assert model.training


def test_forget_loss_rises_and_no_retain_set_is_read(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientAscent(), retain=False, update="all", **SGD)
    batch, before = forget_batch("vit"), state(trainer.model)
    start = mean_nll(trainer.model, batch["forget"])
    trainer.train()
    assert changed(before, state(trainer.model))
    assert mean_nll(trainer.model, batch["forget"]) > start

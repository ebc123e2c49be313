"""Retraining starts from fresh weights, of the whole model."""

import pytest
import torch

from tests.support.methods import make
from tests.support.models import build
from tests.support.runs import SGD as PLAIN_STEPS
from tests.support.runs import trainer_for

SGD = {**PLAIN_STEPS, "weight_average": 0.0}


@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_retraining_starts_from_fresh_weights_and_from_model_init(tmp_path, arch):
    fresh = build(arch)
    trainer = trainer_for(arch, tmp_path, make("retrain"), **{**SGD, "learning_rate": 1e-12})
    trainer.model_init_fn = lambda: build(arch)
    trainer.train()
    weights = dict(trainer.model.named_parameters())
    for name, parameter in fresh.named_parameters():
        assert torch.allclose(weights[name], parameter, atol=1e-9), name


def test_retraining_a_part_of_the_model_is_refused(tmp_path):
    with pytest.raises((ValueError, RuntimeError), match="`update='head'`"):
        trainer_for("vit", tmp_path, make("retrain"), update="head", **SGD).train()

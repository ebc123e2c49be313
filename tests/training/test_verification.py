"""A run that changed the wrong parameters, or none, is never reported as a success."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import UnlearningMethod
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.training.verification import mean_total_variation
from tests.support.runs import arguments
from tests.training.support import make_trainer


@dataclass(kw_only=True)
class Faulty(UnlearningMethod):
    """Gradient ascent that writes to a frozen parameter ("stray"), or that sets all gradients to zero ("zero")."""

    fault: str = ""

    def loss(self, model, batch, reference):
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        return {"forget": -F.cross_entropy(logits, batch["forget"]["labels"])}

    def adjust_gradients(self, model):
        if self.fault == "stray":
            with torch.no_grad():
                next(p for p in model.parameters() if not p.requires_grad).view(-1)[0] += 1
        if self.fault == "zero":
            for p in model.parameters():
                p.grad = None if p.grad is None else torch.zeros_like(p.grad)


def test_stray_change_of_a_frozen_parameter_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path, method=Faulty(fault="stray"), args=arguments(tmp_path, update="head"))
    frozen = next(n for n, p in trainer.model.named_parameters() if not p.requires_grad)
    with pytest.raises(RuntimeError, match=f"`update='head'`.*{frozen}"):
        trainer.train()
    assert trainer.outcome is None or not trainer.outcome.ok


def test_run_that_changes_nothing_is_a_warning(tmp_path, caplog):
    trainer = make_trainer(tmp_path, method=Faulty(fault="zero"))
    trainer.train()
    assert "no parameter changed: the model is the original" in trainer.outcome.warnings
    assert "no parameter changed" in caplog.text
    assert not trainer.outcome.ok


def test_mean_total_variation_by_hand_and_by_loop():
    a, b = (torch.tensor(rows).log() for rows in ([[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]))
    assert mean_total_variation(a, b) == pytest.approx(0.4)
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    rows = [
        sum(abs(p - q) for p, q in zip(x.softmax(0).tolist(), y.softmax(0).tolist(), strict=True)) / 2
        for x, y in zip(a, b, strict=True)
    ]
    assert mean_total_variation(a, b) == pytest.approx(sum(rows) / 7, rel=1e-5)

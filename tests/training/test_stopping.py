"""When a run ends: at its target, where kept data suffers, where it diverges; and what it goes back to."""

import math
from dataclasses import dataclass

import pytest
import torch
from transformers import TrainerCallback

from hf_unlearn import ForgetRequest, GradientAscent, JiT, UnlearningMethod
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from hf_unlearn.models.prediction import predict
from tests.support.data import class_split, pixel_data
from tests.support.models import changed, state, trained
from tests.support.runs import KillAt, Killed, trainer_for


@dataclass(kw_only=True)
class Turning(UnlearningMethod):
    """Distils towards uniform outputs, gently, until `turn`; then its gradients are noise (or overflow)."""

    turn: int = 0
    overflow: bool = False

    def loss(self, model, batch, reference):
        with eval_mode(model):
            logits = classify(model, model_inputs(batch["forget"]))
        return {"uniform": -1e-3 * logits.log_softmax(-1).mean()}

    def adjust_gradients(self, model):
        self.turn -= 1
        if self.turn >= 0:
            return
        for p in model.parameters():
            if p.grad is not None:
                p.grad = torch.full_like(p, 3e38) if self.overflow else torch.randn_like(p)


class RateFrom(TrainerCallback):
    """Raises the learning rate from a step on, so that a bad gradient does harm."""

    def __init__(self, step, rate):
        self.step, self.rate = step, rate

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step >= self.step:
            for group in optimizer.param_groups:
                group["lr"] = self.rate


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_damaged_run_goes_back_to_its_last_good_state(tmp_path, arch):
    changes = {
        "check_steps": 2,
        "lr_scheduler_type": "constant",
        "max_retain_drop": 0.05,
        "trust_region": 0.0,
        "optim": "sgd",
        "max_halvings": 0,
    }
    good = trainer_for(arch, tmp_path / "good", Turning(turn=99), max_steps=4, learning_rate=1e-3, **changes)
    good.train()
    trainer = trainer_for(arch, tmp_path / "bad", Turning(turn=4), max_steps=20, learning_rate=1e-3, **changes)
    trainer.add_callback(RateFrom(4, 10.0))
    trainer.train()
    assert trainer.outcome.stopped.startswith("kept data suffers")
    assert trainer.outcome.steps == 6
    assert not trainer.outcome.ok
    assert any("last good state restored" in w for w in trainer.outcome.warnings)
    assert not changed(state(good.model), state(trainer.model))
    assert changed(state(trained(arch)), state(trainer.model))


def test_nan_outputs_go_back_to_the_last_good_state(tmp_path):
    trainer = trainer_for(
        "vit",
        tmp_path,
        Turning(turn=2, overflow=True),
        max_steps=9,
        check_steps=1,
        trust_region=0.0,
        optim="sgd",
        learning_rate=1e-3,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        max_halvings=0,
        retain=False,
    )
    trainer.add_callback(RateFrom(2, 1e2))
    trainer.train()
    assert trainer.outcome.stopped.startswith("diverged")
    assert trainer.outcome.steps == 3
    assert all(torch.isfinite(t).all() for t in trainer.model.state_dict().values())
    assert math.isfinite(trainer.outcome.forget_end)


def test_damage_at_the_first_check_restores_the_original(tmp_path):
    trainer = trainer_for(
        "vit", tmp_path, GradientAscent(), max_steps=50, check_steps=5, trust_region=0.5, max_retain_drop=0.05,
        max_halvings=0,
    )  # fmt: skip
    trainer.train()
    assert trainer.outcome.stopped.startswith("kept data suffers")
    assert trainer.outcome.steps == 5
    assert not changed(state(trained("vit")), state(trainer.model))
    assert "no parameter changed: the model is the original" in trainer.outcome.warnings


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
def test_target_stops_the_run_and_is_met_on_every_forget_row(tmp_path, arch):
    split = class_split(arch)
    trainer = trainer_for(
        arch,
        tmp_path,
        JiT(num_perturbations=5, anchors=False),
        split=split,
        retain=False,
        forget_target=0.1,
        max_steps=400,
        check_steps=2,
        update="all",
        trust_region=0.01,
        probe_size=8,
    )
    trainer.train()
    logits, labels = predict(trainer.model, split.forget, trainer.processor)
    share = (logits.argmax(-1) == labels).float().mean().item()
    assert trainer.outcome.stopped == "target reached"
    assert trainer.outcome.steps < 400
    assert trainer.outcome.target_reached is True
    assert trainer.outcome.forget_end == pytest.approx(share)
    assert share <= 0.1
    assert trainer.outcome.path[0]["forget"] > 0.9
    assert [p["step"] for p in trainer.outcome.path] == list(range(0, trainer.outcome.steps + 1, 2))


def test_missed_target_is_a_warning_and_not_a_success(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), retain=False, forget_target=0.0, trust_region=1e-6)
    trainer.train()
    assert trainer.outcome.stopped == "all steps done"
    assert trainer.outcome.target_reached is False
    assert not trainer.outcome.ok
    assert any("target was not reached" in w for w in trainer.outcome.warnings)


ASCENT = {"trust_region": 0.002, "max_steps": 60, "check_steps": 1, "forget_target": 0.3}


def test_a_run_that_came_to_its_end_takes_no_step_when_it_is_resumed(tmp_path):
    whole = trainer_for("vit", tmp_path, GradientAscent(), save_strategy="steps", save_steps=1, **ASCENT)
    whole.train()
    assert whole.outcome.stopped == "target reached"
    again = trainer_for("vit", tmp_path, GradientAscent(), save_strategy="steps", save_steps=1, **ASCENT)
    again.train(resume_from_checkpoint=True)
    assert not changed(state(whole.model), state(again.model))
    assert again.outcome == whole.outcome


def test_a_trainer_that_resumes_its_own_run_starts_from_its_original(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "check_steps": 2}
    whole = trainer_for("vit", tmp_path / "whole", GradientAscent(), **settings)
    whole.train()
    killer = KillAt(3)
    trainer = trainer_for("vit", tmp_path / "killed", GradientAscent(), callbacks=[killer], **settings)
    with pytest.raises(Killed):
        trainer.train()
    trainer.remove_callback(killer)
    trainer.train(resume_from_checkpoint=True)
    assert not changed(state(whole.model), state(trainer.model))
    assert trainer.outcome == whole.outcome
    with trainer.original_weights() as model:
        assert not changed(state(trained("vit")), state(model))


def test_going_back_restores_batch_statistics_too(tmp_path):
    trainer = trainer_for(
        "resnet", tmp_path, JiT(num_perturbations=2, mode="train", anchors=False), max_steps=9, update="all",
        check_steps=3, trust_region=0.5, max_retain_drop=0.05, max_halvings=0,
    )  # fmt: skip
    trainer.train()
    assert trainer.outcome.stopped.startswith(("kept data suffers", "diverged"))
    assert not changed(state(trained("resnet")), state(trainer.model))


@pytest.mark.parametrize(("target", "guarded"), [(None, True), (-1.0, False)])
def test_without_any_target_single_samples_have_no_floor(tmp_path, target, guarded):
    split = ForgetRequest(fraction=0.4).split(pixel_data(64))
    trainer = trainer_for(
        "vit", tmp_path, GradientAscent(), split=split, retain=False, forget_kind="samples", forget_target=target,
        max_steps=20, trust_region=0.02, check_steps=5,
    )  # fmt: skip
    trainer.train()
    assert trainer.outcome.stopped.startswith("enough") == guarded
    assert guarded or (trainer.outcome.steps == 20 and trainer.outcome.forget_end < 0.9)


def test_a_run_after_a_failed_one_starts_from_the_original_again(tmp_path):
    whole = trainer_for("vit", tmp_path / "whole", GradientAscent(), retain=False)
    whole.train()
    killer = KillAt(2)
    trainer = trainer_for("vit", tmp_path / "failed", GradientAscent(), callbacks=[killer], retain=False)
    with pytest.raises(Killed):
        trainer.train()
    trainer.remove_callback(killer)
    trainer.train()
    assert not changed(state(whole.model), state(trainer.model))
    assert trainer.outcome == whole.outcome

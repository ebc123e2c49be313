"""Every optimizer setting takes effect or is refused."""

import numpy as np
import pytest
import torch

from hf_unlearn import GradientAscent, JiT, UnlearningTrainer
from hf_unlearn.training.optimizers import scale_rates
from tests.support.data import class_split, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import SGD, arguments, trainer_for


def given(folder, optimizer, model, method=None, peft_config=None, **changes):
    """A trainer that is passed `optimizer`."""
    return UnlearningTrainer(
        model, arguments(folder, **changes), method or GradientAscent(), class_split("vit").forget,
        optimizers=(optimizer, None), processing_class=processing_class("vit"), peft_config=peft_config,
    )  # fmt: skip


@pytest.mark.parametrize("clip", [0.0, 1e-3])
@pytest.mark.parametrize("method", [GradientAscent(), JiT(num_perturbations=2)], ids=lambda m: m.name)
def test_an_optimizer_that_is_passed_takes_the_steps_of_one_that_is_named(tmp_path, method, clip):
    """JiT by default would take steps of a trust region, without clipping."""
    settings = {**SGD, "max_grad_norm": clip, "update": "head"}
    named = trainer_for("vit", tmp_path / "named", method, retain=False, **settings)
    del settings["trust_region"], settings["learning_rate"]  # else they ask for no trust region
    model = trained("vit")
    passed = given(
        tmp_path, torch.optim.SGD(model.classifier.parameters(), lr=SGD["learning_rate"]), model, method, **settings
    )
    assert passed.args.max_grad_norm == clip
    before = state(model)
    named.train()
    passed.train()
    assert not changed(state(named.model), state(model))
    assert changed(before, state(model)) == {"classifier.weight", "classifier.bias"}


def test_an_optimizer_of_what_does_not_move_is_refused(tmp_path):
    model = trained("vit")
    every = len(list(model.parameters()))
    for parameters, update, idle in (
        (model.parameters(), "head", rf"{every - 2} of its {every} tensors are not among the 2"),
        (trained("vit").parameters(), "all", f"{every} of its {every} tensors"),
    ):
        with pytest.raises(ValueError, match=f"`optimizers`: {idle} .*`update='{update}'`"):
            given(tmp_path, torch.optim.SGD(parameters, lr=0.1), model, update=update)
    given(tmp_path, torch.optim.SGD(model.classifier.parameters(), lr=0.1), model, update="all")


def test_an_optimizer_made_before_the_adapter_is_refused_before_the_model_is_touched(tmp_path):
    model = trained("vit")
    before = state(model)
    with pytest.raises(ValueError, match="`optimizers` were made before `peft_config`"):
        given(tmp_path, torch.optim.SGD(model.parameters(), lr=0.1), model, peft_config="lora")
    assert not changed(before, state(model))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data_seed": 7}, "`data_seed=7`.* Set `seed` instead"),
        ({"train_sampling_strategy": "group_by_length"}, "`train_sampling_strategy='group_by_length'`"),
        ({"optim": "adafactor"}, "`optim=adafactor` does nothing under the method's trust region.*`trust_region=0`"),
        ({"weight_decay": 0.5}, "`weight_decay=0.5` does nothing"),
        ({"momentum": 0.9}, "`momentum=0.9` does nothing"),
        ({"adam_beta1": 0.5}, "`adam_beta1=0.5` does nothing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, changes, match):
    model = trained("vit")
    before = state(model)
    with pytest.raises(ValueError, match=match):
        trainer_for("vit", tmp_path, JiT(), model=model, peft_config="lora", **changes)
    assert not changed(before, state(model))


def test_a_trust_region_and_an_optimizer_are_one_too_many(tmp_path):
    model = trained("vit")
    with pytest.raises(ValueError, match="`trust_region` and `optimizers`"):
        given(tmp_path, torch.optim.SGD(model.parameters(), lr=0.1), model, trust_region=0.1)


def test_noise_in_half_precision_has_no_training_mode():
    with pytest.raises(ValueError, match=r"`precision='bfloat16'`.*`mode='train'`"):
        JiT(mode="train", precision="bfloat16")


SCHEDULES = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, eta_min=o.param_groups[0]["lr"] / 8),
    "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3, eta_min=o.param_groups[0]["lr"] / 8),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [g["lr"] for g in o.param_groups], 12),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [6]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_scaled_rates_follow_the_schedule_of_an_optimizer_with_smaller_rates(name):
    """The reference began with half of the rates."""
    rates = {}
    for factor in (1.0, 0.5):
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": factor * lr} for lr in (0.8, 0.2)]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        schedule, rates[factor] = SCHEDULES[name](optimizer), []
        for step in range(10):
            if step == 4 and factor == 1.0:
                scale_rates(optimizer, schedule, 0.5)
            rates[factor].append([g["lr"] for g in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    assert rates[1.0][:4] == pytest.approx(np.array(rates[0.5][:4]) * 2)
    assert rates[1.0][4:] == pytest.approx(np.array(rates[0.5][4:]))
    assert len({tuple(r) for r in rates[0.5]}) > 2

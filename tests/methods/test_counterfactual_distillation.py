"""Struck-out targets, anchors that arrive in kept classes, and distillation against its formula."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from hf_unlearn import CounterfactualDistillation, ForgetRequest, JiT, UnlearningTrainer
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.reference import Reference, forgotten_classes
from tests.support.data import CLASSES, class_split, pixel_data
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments, forget_batch, trainer_for
from tests.support.tables import slow


def test_struck_out_belief_is_the_rest_renormalised():
    logits = torch.randn(5, CLASSES, dtype=torch.float64)
    for forgotten in ((1,), (0, 3)):
        p = logits.softmax(-1)
        p[:, list(forgotten)] = 0
        expected = p / p.sum(-1, keepdim=True)
        assert torch.allclose(Reference(logits, None, forgotten).struck_out(logits).softmax(-1), expected, atol=1e-15)
    assert torch.equal(Reference(logits, None, ()).struck_out(logits), logits)


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
def test_distillation_starts_at_its_closed_form(arch):
    """Before anything moved, KL(p̃ ‖ p) = −log(1 − p_c)."""
    model, batch = trained(arch).train(), forget_batch(arch)
    with torch.no_grad():
        logits = trained(arch)(**model_inputs(batch["forget"])).logits
    method = CounterfactualDistillation()
    reference = Reference(logits, None, (1,))
    method.setup(SimpleNamespace(reference=reference, args=SimpleNamespace(fp16=False)))
    loss = method.loss(model, batch, reference)["forget"].item()
    assert loss == pytest.approx(-torch.log1p(-logits.double().softmax(-1)[:, 1]).mean().item(), rel=1e-3)
    assert model.training


def prepared(reference, **settings):
    method = CounterfactualDistillation(**settings)
    method.setup(SimpleNamespace(reference=reference, args=SimpleNamespace(fp16=False)))
    return method


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradient_at_relearned_weights_is_that_of_a_plain_attack(arch, parts):
    model, batch = trained(arch).train(), forget_batch(arch)
    inputs, target_class = model_inputs(batch["forget"]), torch.ones(4, dtype=torch.long)
    with torch.no_grad():
        original = trained(arch)(**inputs).logits
    reference, length, weight = Reference(original, None, (1,)), 0.02, 0.4
    method = prepared(reference, relearning_steps=3, relearning_length=length, relearning_weight=weight)
    for rows in torch.arange(8).chunk(parts):
        part = {"forget": {k: v[rows] for k, v in batch["forget"].items()}, "index": rows, "seed": batch["seed"][rows]}
        (method.loss(model, part, reference)["forget"] / parts).backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    before = state(model)
    method.adjust_gradients(model)
    assert not changed(before, state(model))
    assert model.training

    attacked = trained(arch)
    for _ in range(3):
        attacked.zero_grad()
        half = attacked(**{k: v[::2] for k, v in inputs.items()}).logits
        F.cross_entropy(half, target_class).backward()
        with torch.no_grad():
            for p in attacked.parameters():
                radius = length * max(p.norm().item(), 0.01 * p.numel() ** 0.5)
                p -= radius * p.grad / p.grad.norm() if p.grad.norm() > 0 else 0
    attacked.zero_grad()
    struck_out = original.softmax(-1).index_fill(-1, torch.tensor([1]), 0)
    struck_out /= struck_out.sum(-1, keepdim=True)
    F.kl_div(attacked(**inputs).logits.log_softmax(-1), struck_out, reduction="batchmean").backward()
    expected = torch.cat([(plain[n] + weight * p.grad).flatten() for n, p in attacked.named_parameters()])
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    attack = ours - torch.cat([g.flatten() for g in plain.values()])
    assert attack.norm() > 1e-3
    assert (ours - expected).norm() < 1e-3 * attack.norm()


@pytest.mark.parametrize(("anchors", "steps"), [(False, 0), (False, 4), (True, 4)])
def test_what_a_step_is_said_to_cost_is_what_it_trains_on(tmp_path, few_anchors, anchors, steps):
    method = CounterfactualDistillation(anchors=anchors, relearning_steps=steps)
    trainer, rows = trainer_for("vit", tmp_path, method, max_steps=2, per_device_train_batch_size=8), []
    started = []
    trainer.add_callback(
        type("Mark", (TrainerCallback,), {"on_train_begin": lambda *_, **__: started.append(len(rows))})()
    )

    def count(_module, _inputs, output):
        rows.append(len(output.logits) if output.logits.requires_grad else 0)

    with trainer.model.register_forward_hook(count):
        trainer.train()
    assert sum(rows[started[0] :]) == 2 * 8 * method.passes_a_step()
    assert bool(method.rows_before_steps(17, 0, 1)) == anchors


def test_without_an_attack_the_gradient_is_left_alone():
    model, batch = trained("vit"), forget_batch("vit")
    with torch.no_grad():
        reference = Reference(model(**model_inputs(batch["forget"])).logits, None, (1,))
    method = prepared(reference, relearning_steps=0)
    method.loss(model, batch, reference)["forget"].backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    method.adjust_gradients(model)
    assert all(torch.equal(p.grad, plain[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"relearning_steps": -1}, "`relearning_steps`"),
        ({"relearning_length": 0.0}, "`relearning_length`"),
        ({"relearning_length": 1.0}, "`relearning_length`"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, match):
    with pytest.raises(ValueError, match=match):
        CounterfactualDistillation(**settings)


def test_single_samples_are_refused_with_advice(tmp_path):
    split = ForgetRequest(fraction=0.2).split(class_split("vit").retain)
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), split=split, forget_kind="auto")
    with pytest.raises(ValueError, match=r"`method='counterfactual_distillation'`.*`jit`.*`forget_kind='class'`"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", *slow("resnet", "bert")])
def test_distillation_forgets_the_class_and_keeps_the_others(tmp_path, arch):
    split = class_split(arch, 128)
    trainer = trainer_for(
        arch,
        tmp_path,
        CounterfactualDistillation(),
        split=split,
        retain=False,
        max_steps=60,
        trust_region=0.01,
        per_device_train_batch_size=16,
        forget_target=None,
        check_steps=20,
    )
    trainer.train()
    share = {}
    for name, data in (("forget", split.forget), ("retain", split.retain)):
        logits, labels = predict(trainer.model, data, trainer.processor)
        share[name] = (logits.argmax(-1) == labels).float().mean().item()
    assert share["forget"] <= 0.05
    assert share["retain"] >= 0.85


@pytest.mark.parametrize(("labels", "expected"), [([1, 2], (1, 2)), ([1, 1], (1,)), (None, (1,))])
def test_which_classes_are_forgotten(labels, expected):
    logits = torch.eye(CLASSES)[[1, 1]]  # without labels the original's predictions speak
    labels = None if labels is None else torch.tensor(labels)
    assert forgotten_classes(Reference(logits, labels)) == expected


@pytest.mark.parametrize(
    ("forget", "retain", "kind"),
    [
        ([1], [0, 2, 3], "class"),
        ([1, 2], [0, 3], "class"),
        ([1, 2], [0, 2], "samples"),
        ([1], None, "class"),
        ([1, 2], None, "samples"),
    ],
)
def test_what_kind_of_request_the_labels_show(tmp_path, forget, retain, kind):
    def keep(data, classes):
        return data.select([i for i, y in enumerate(data["label"]) if y in classes])

    trainer = UnlearningTrainer(
        model=build("resnet"),
        args=arguments(tmp_path, forget_kind="auto"),
        method=JiT(),
        forget_dataset=keep(pixel_data(), forget),
        retain_dataset=keep(pixel_data(seed=1), retain) if retain else None,
    )
    assert trainer.args.forget_kind == kind


def test_scaled_gradients_are_refused(tmp_path):
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), retain=False)
    trainer.args.fp16 = True
    with pytest.raises(ValueError, match="`fp16=True`"):
        trainer._set_up()

"""Struck-out targets, anchors that arrive in kept classes, and distillation against its formula."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import CounterfactualDistillation, ForgetRequest, GradientDifference, JiT, UnlearningTrainer
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.methods.components.counterfactual_anchors import CounterfactualAnchors
from hf_unlearn.methods.components.losses import kl_to_target
from hf_unlearn.models.forward import classify, model_inputs
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.reference import Reference, build_reference, forgotten_classes
from tests.support.data import CLASSES, class_split, pixel_data, processing_class
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments, forget_batch, trainer_for


def test_struck_out_belief_is_the_rest_renormalised():
    logits = torch.randn(5, CLASSES, dtype=torch.float64)
    for forgotten in ((1,), (0, 3)):
        p = logits.softmax(-1)
        p[:, list(forgotten)] = 0
        expected = p / p.sum(-1, keepdim=True)
        assert torch.allclose(Reference(logits, None, forgotten).struck_out(logits).softmax(-1), expected, atol=1e-15)
    assert torch.equal(Reference(logits, None, ()).struck_out(logits), logits)


def test_kl_is_the_mean_over_the_batch_in_nats():
    target, logits = torch.rand(6, CLASSES).softmax(-1), torch.randn(6, CLASSES)
    target[:, 2] = 0
    target /= target.sum(-1, keepdim=True)
    p, q = target.double(), logits.double().softmax(-1)
    expected = sum(p[i, c] * (p[i, c] / q[i, c]).log() for i in range(6) for c in range(CLASSES) if p[i, c] > 0) / 6
    assert kl_to_target(target, logits).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_to_target(logits.softmax(-1), logits).item() == pytest.approx(0, abs=1e-6)


def build_anchors(arch, **settings):
    model, split = trained(arch), class_split(arch)
    processor = Processor(model, processing_class(arch))
    rows = PreparedRows(split.forget, processor)
    reference = build_reference(model, rows, processor, 64)
    reference.forgotten_classes = (1,)
    anchors = CounterfactualAnchors(**{"count": 24, **settings}).build(model, rows, processor, reference)
    return anchors, model, processor, reference


@pytest.mark.parametrize("progress", [False, True])
def test_building_shows_its_progress_where_asked(capsys, progress):
    _, model, processor, reference = build_anchors("vit", count=1)
    rows = PreparedRows(class_split("vit").forget, processor)
    capsys.readouterr()
    CounterfactualAnchors(count=8).build(model, rows, processor, reference, progress=progress)
    assert ("Counterfactual anchors: 100%" in capsys.readouterr().err) == progress


def anchor_logits(anchors, model, processor):
    """What the model says on every anchor, one at a time, and the anchors."""
    logits, moved = [], []
    for i, row in enumerate(anchors.rows):
        inputs = processor.collate([row])
        edit = (lambda _, i=i: anchors.inputs[i][None]) if anchors.inputs else None
        moved.append(anchors.inputs[i] if anchors.inputs else row["pixel_values"])
        with torch.no_grad():
            logits.append(classify(model, inputs, edit)[0])
    return torch.stack(logits), moved


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", "roberta"])
def test_anchors_arrive_in_kept_classes_and_remember_what_the_original_says_there(arch):
    before = state(trained(arch))
    anchors, model, processor, reference = build_anchors(arch)
    logits, moved = anchor_logits(anchors, model, processor)
    assert 3 <= len(anchors.rows) == len(anchors.targets) <= 24
    predicted = logits.argmax(-1)
    assert 1 not in predicted.tolist()
    assert len(predicted.unique()) == CLASSES - 1
    expected = logits.softmax(-1).clone()
    expected[:, 1] = 0
    assert torch.allclose(anchors.targets, expected / expected.sum(-1, keepdim=True), atol=1e-4)
    assert (anchors.targets[:, 1] == 0).all()
    if not anchors.inputs:
        assert all(reference.input_min <= x.min() and x.max() <= reference.input_max for x in moved)
    assert not changed(before, state(model))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_anchor_loss_is_the_mean_divergence_on_the_drawn_anchors(arch):
    anchors, original, processor, _ = build_anchors(arch)
    model = trained(arch).train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    seeds = torch.tensor([5, 17, 2**40 + 3, 5])
    model.eval()
    logits, _ = anchor_logits(anchors, model, processor)
    chosen = [int(s) % len(anchors.rows) for s in seeds]
    log_q, p = logits[chosen].double().log_softmax(-1), anchors.targets[chosen].double()
    expected = (torch.xlogy(p, p) - p * log_q).sum(-1).mean().item()
    assert anchors.loss(model.train(), seeds).item() == pytest.approx(expected, rel=1e-3)
    assert model.training
    kept = anchors.loss(original, seeds).item()
    assert kept == pytest.approx(-original_loss(anchors, original, processor, chosen), rel=1e-2, abs=1e-5)
    assert kept < expected


def original_loss(anchors, model, processor, chosen):
    """On the original the divergence of the struck-out belief is −log(1 − p_c)."""
    logits, _ = anchor_logits(anchors, model, processor)
    return torch.log1p(-logits[chosen].double().softmax(-1)[:, 1]).mean().item()


def test_anchors_are_reproducible_and_seeded():
    first, again, other = (build_anchors("vit", seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.targets, again.targets)
    assert first.targets.shape != other.targets.shape or not torch.equal(first.targets, other.targets)


def test_more_starts_than_rows_and_fewer():
    for count in (4, 40):
        assert 1 <= len(build_anchors("vit", count=count)[0].rows) <= count


def test_anchors_that_cannot_arrive_are_an_error():
    with pytest.raises(ValueError, match="No counterfactual anchor arrived"):
        build_anchors("vit", steps=1, step_size=1e-6)
    model, split = trained("vit"), class_split("vit")
    processor = Processor(model)
    rows = PreparedRows(split.forget, processor)
    reference = build_reference(model, rows, processor, 64)
    reference.forgotten_classes = tuple(range(CLASSES))
    with pytest.raises(ValueError, match="every class of the head is forgotten"):
        CounterfactualAnchors().build(model, rows, processor, reference)


def test_frozen_parameters_stay_frozen_while_anchors_are_built(tmp_path):
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), update="head")
    trainer.train()
    moving = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert moving == {"classifier.weight", "classifier.bias"}


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


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert"])
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


def test_any_method_may_hold_outputs_on_anchors(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientDifference(anchors=True, anchor_weight=0.5), update="all")
    trainer.train()
    assert trainer.method.held_anchors.rows
    assert all("loss/anchors" in e for e in trainer.state.log_history if "loss" in e)


@pytest.mark.parametrize(
    ("update", "retain", "expected"),
    [("all", False, True), ("last:1", False, True), ("head", False, False), ("all", True, False)],
)
def test_jit_takes_anchors_where_nothing_else_holds_the_body(tmp_path, update, retain, expected):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=1), update=update, retain=retain, max_steps=1)
    trainer.train()
    assert (trainer.method.held_anchors is not None) == expected


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


def test_a_failure_while_anchors_are_built_leaves_the_model_trainable(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(CounterfactualAnchors, "_move", fail)
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), retain=False, update="head")
    before = [p.requires_grad for p in trainer.model.parameters()]
    with pytest.raises(MemoryError):
        trainer.train()
    assert [p.requires_grad for p in trainer.model.parameters()] == before
    assert any(before)


def test_scaled_gradients_are_refused(tmp_path):
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), retain=False)
    trainer.args.fp16 = True
    with pytest.raises(ValueError, match="`fp16=True`"):
        trainer._set_up()


@pytest.mark.parametrize(("arch", "warned"), [("bert", True), ("vit", False)])
def test_anchors_on_text_come_with_a_warning(caplog, arch, warned):
    with caplog.at_level(logging.WARNING, "hf_unlearn.methods.components.counterfactual_anchors"):
        build_anchors(arch)
    assert ("embedding space" in caplog.text) == warned

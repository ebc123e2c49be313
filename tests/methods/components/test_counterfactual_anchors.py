"""Counterfactual anchors arrive in kept classes, and their loss is the divergence from the original there."""

import logging

import pytest
import torch

from hf_unlearn import CounterfactualDistillation, GradientDifference, JiT
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.methods.components.counterfactual_anchors import CounterfactualAnchors
from hf_unlearn.models.forward import classify
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.reference import build_reference
from tests.support.data import CLASSES, class_split, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import trainer_for
from tests.support.tables import slow


def build_anchors(arch, **settings):
    model, split = trained(arch), class_split(arch)
    processor = Processor(model, processing_class(arch))
    rows = PreparedRows(split.forget, processor)
    reference = build_reference(model, rows, processor, 64)
    reference.forgotten_classes = (1,)
    anchors = CounterfactualAnchors(**{"count": 24, **settings}).build(model, rows, processor, reference)
    return anchors, model, processor, reference


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "bert", *slow("resnet", "roberta")])
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


@pytest.mark.slow
def test_any_method_may_hold_outputs_on_anchors(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientDifference(anchors=True, anchor_weight=0.5), update="all")
    trainer.train()
    assert trainer.method.held_anchors.rows
    assert all("loss/anchors" in e for e in trainer.state.log_history if "loss" in e)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "retain", "expected"),
    [("all", False, True), ("last:1", False, True), ("head", False, False), ("all", True, False)],
)
def test_jit_takes_anchors_where_nothing_else_holds_the_body(tmp_path, update, retain, expected):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=1), update=update, retain=retain, max_steps=1)
    trainer.train()
    assert (trainer.method.held_anchors is not None) == expected


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


@pytest.mark.parametrize(("arch", "warned"), [("bert", True), ("vit", False)])
def test_anchors_on_text_come_with_a_warning(caplog, arch, warned):
    with caplog.at_level(logging.WARNING, "hf_unlearn.methods.components.counterfactual_anchors"):
        build_anchors(arch)
    assert ("embedding space" in caplog.text) == warned


@pytest.mark.slow
def test_frozen_parameters_stay_frozen_while_anchors_are_built(tmp_path):
    trainer = trainer_for("vit", tmp_path, CounterfactualDistillation(), update="head")
    trainer.train()
    moving = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert moving == {"classifier.weight", "classifier.bias"}

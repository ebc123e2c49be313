"""IT-reg for data points: the closed form on a batch, what it reads, and what it does to a model."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import ForgetRequest, MarginalInformation
from hf_unlearn.metrics.functional.information import disjoint_information
from hf_unlearn.models.forward import classify, eval_mode, model_inputs
from tests.support.data import class_split
from tests.support.models import state, trained
from tests.support.runs import forget_batch, trainer_for

ADAM = {"trust_region": 0.0, "learning_rate": 1e-3, "optim": "adamw_torch"}


def ready(arch, tmp_path, method, **changes):
    """A trainer whose method is set up on its model."""
    trainer = trainer_for(arch, tmp_path, method, update="all", **ADAM, **changes)
    trainer._set_up()
    return trainer


def official(model, batch):
    """Restated: Z=0 the union, Z=1 the retain batch; the plug-in joint table of (Ŷ, Z) and its information, three forwards."""
    with eval_mode(model), torch.no_grad():
        sides = {s: classify(model, model_inputs(batch[s])).double().softmax(-1) for s in ("retain", "forget")}
    zero, one = torch.cat([sides["retain"], sides["forget"]]), sides["retain"]
    table = torch.stack([zero.sum(0), one.sum(0)]) / (len(zero) + len(one))
    independent = table.sum(0) * table.sum(1, keepdim=True)
    return (table * (table / independent).log()).sum().item()


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_terms_are_cross_entropy_and_the_official_estimate(tmp_path, arch):
    trainer = ready(arch, tmp_path, MarginalInformation(gamma=2.0, normalise=False))
    model, batch = trainer.model, forget_batch(arch, 12)
    terms = trainer.method.loss(model, batch, trainer.reference)
    with eval_mode(model), torch.no_grad():
        logits = classify(model, model_inputs(batch["retain"]))
    assert terms["retain"].item() == pytest.approx(F.cross_entropy(logits, batch["retain"]["labels"]).item(), rel=1e-5)
    batch["forget"] = {k: v[:5] for k, v in batch["forget"].items()}
    terms = trainer.method.loss(model, batch, trainer.reference)
    assert terms["information"].item() == pytest.approx(2.0 * official(model, batch), rel=1e-4)


def test_normalised_weight_is_the_share_of_the_greatest_value(tmp_path):
    trainer = ready("vit", tmp_path, MarginalInformation(gamma=1.0))
    batch = forget_batch("vit", 12)
    share = trainer.method.loss(trainer.model, batch, trainer.reference)["information"].item()
    assert share == pytest.approx(official(trainer.model, batch) / disjoint_information(12, 12).item(), rel=1e-4)
    assert 0 <= share <= 1


def test_conditional_form_weighs_the_classes(tmp_path):
    method = MarginalInformation(gamma=1.0, conditional=True, normalise=False)
    trainer = ready("vit", tmp_path, method, forget_kind="samples")
    batch = forget_batch("vit", 16)
    value = trainer.method.loss(trainer.model, batch, trainer.reference)["information"].item()
    expected, n = 0.0, 0
    for label in range(4):
        part = {s: {k: v[batch[s]["labels"] == label] for k, v in batch[s].items()} for s in ("retain", "forget")}
        size = sum(len(part[s]["labels"]) for s in part)
        expected, n = expected + size * official(trainer.model, part), n + size
    assert value == pytest.approx(expected / n, rel=1e-3, abs=1e-7)


def test_kl_utility_starts_at_zero_and_needs_no_labels(tmp_path):
    split = class_split("vit")
    bare = type(split)(
        split.forget.remove_columns("label"), split.retain.remove_columns("label"), split.forget_indices, split.request
    )
    trainer = trainer_for("vit", tmp_path, MarginalInformation(utility="kl"), split=bare, update="all", **ADAM)
    trainer.train()
    terms = [e["loss/retain"] for e in trainer.state.log_history if "loss/retain" in e]
    assert terms[0] == pytest.approx(0, abs=1e-6)
    assert terms[-1] > 0


def test_forget_labels_are_never_read(tmp_path):
    split = ForgetRequest(fraction=0.25).split(class_split("vit").retain)
    shuffled = split.forget.remove_columns("label").add_column("label", list(reversed(split.forget["label"])))
    ends = []
    for folder, forget in (("a", split.forget), ("b", shuffled), ("c", split.forget.remove_columns("label"))):
        other = type(split)(forget, split.retain, split.forget_indices, split.request)
        trainer = trainer_for(
            "vit", tmp_path / folder, MarginalInformation(), split=other, update="all", forget_kind="samples", **ADAM
        )
        trainer.train()
        ends.append(state(trainer.model))
    for end in ends[1:]:
        assert all(end[k].equal(ends[0][k]) for k in end)


def test_information_falls_and_retain_loss_stays(tmp_path):
    trainer = trainer_for(
        "vit", tmp_path, MarginalInformation(gamma=0.25), update="all", max_steps=40, retain_per_forget=2, **ADAM
    )
    trainer.train()
    entries = [e for e in trainer.state.log_history if "loss/information" in e]
    assert entries[-1]["loss/information"] < 0.5 * entries[0]["loss/information"]
    assert entries[-1]["loss/retain"] < entries[0]["loss/retain"] + 0.1


def test_one_forward_pass_serves_both_terms(tmp_path):
    trainer = ready("vit", tmp_path, MarginalInformation())
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.method.loss(trainer.model, forget_batch("vit", 8), trainer.reference)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"gamma": 0.0}, "`gamma`"), ({"utility": "mse"}, "`utility='mse'`"), ({"memory": 1.0}, "`memory`")],
)
def test_bad_settings_are_named(settings, match):
    with pytest.raises(ValueError, match=match):
        MarginalInformation(**settings)


def test_conditional_form_without_forget_labels_is_refused(tmp_path):
    split = class_split("vit")
    bare = type(split)(split.forget.remove_columns("label"), split.retain, split.forget_indices, split.request)
    with pytest.raises(ValueError, match=r"`forget_dataset` has no label column"):
        trainer_for("vit", tmp_path, MarginalInformation(conditional=True), split=bare)


def test_a_head_of_one_output_is_refused(tmp_path):
    from tests.support.models import build

    split = class_split("vit", label=0)
    zeros = [s.remove_columns("label").add_column("label", [0] * len(s)) for s in (split.forget, split.retain)]
    single = type(split)(*zeros, split.forget_indices, split.request)
    with pytest.raises(ValueError, match="two or more classes"):
        trainer_for("vit", tmp_path, MarginalInformation(), model=build("vit", labels=1), split=single)


def test_underflowing_outputs_keep_the_gradient_finite(tmp_path):
    trainer = ready("vit", tmp_path, MarginalInformation())
    with torch.no_grad():
        trainer.model.classifier.weight.mul_(1e4)
    terms = trainer.method.loss(trainer.model, forget_batch("vit", 8), trainer.reference)
    terms["information"].backward()
    assert math.isfinite(terms["information"].item())
    assert all(torch.isfinite(p.grad).all() for p in trainer.model.parameters() if p.grad is not None)


def test_a_model_trained_on_all_is_not_touched(tmp_path):
    """The copy for the KL utility must not share tensors with the model."""
    model = trained("vit")
    trainer = ready("vit", tmp_path, MarginalInformation(utility="kl"), model=model)
    kept = trainer.method._original.model.classifier.weight.clone()
    with torch.no_grad():
        trainer.model.classifier.weight.add_(1)
    assert trainer.method._original.model.classifier.weight.equal(kept)


def test_conditional_form_for_a_whole_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`conditional=True`"):
        trainer_for("vit", tmp_path, MarginalInformation(conditional=True)).train()

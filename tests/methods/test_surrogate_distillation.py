"""Surrogate distillation: its loss, its targets, and how it starts, against restated formulas."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import ForgetRequest, MarginalInformation, SurrogateDistillation, UnlearningTrainer
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.data.sampling import draw
from hf_unlearn.methods.components.fitting_rate import HEAD_RATE, PATCH_RATE, USUAL_RATE
from hf_unlearn.methods.components.rewinding import ROWS
from hf_unlearn.methods.components.surrogate import (
    as_unseen,
    mean_confidence,
    probe_opinions,
    sharpened,
    sharpness,
)
from hf_unlearn.methods.surrogate_distillation import CONTRAST, DEPTHS, TAUGHT_ROWS
from hf_unlearn.models.base import Base
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.prediction import pooled_features, predict
from tests.models.test_base import save_encoder
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import changed, state, trained
from tests.support.runs import arguments, forget_batch


def run_of(arch, folder, method=None, *, base="none", split=None, held_out=None, model=None, **changes):
    split = class_split(arch, 96) if split is None else split
    settings = {"forget_kind": "class", "per_device_train_batch_size": None, "max_steps": None, **changes}
    return UnlearningTrainer(
        trained(arch) if model is None else model, arguments(folder, **settings), method or SurrogateDistillation(),
        split.forget, split.retain, eval_dataset=held_out, processing_class=processing_class(arch), base_model=base,
    )  # fmt: skip


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_loss_is_cross_entropy_on_retain_and_divergence_from_the_targets_on_forget_rows(arch):
    model, batch = trained(arch).train(), forget_batch(arch)
    method = SurrogateDistillation(forget_weight=0.7)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(100, 4, generator=generator).softmax(-1)
    vars(method).update(_targets=targets, _weight=0.7)
    terms = method.loss(model, batch, None)
    with torch.no_grad():
        kept = model(**model_inputs(batch["retain"])).logits
        gone = model(**model_inputs(batch["forget"])).logits.log_softmax(-1)
    t = targets[batch["index"]]
    assert terms["retain"].item() == pytest.approx(F.cross_entropy(kept, batch["retain"]["labels"]).item(), rel=1e-4)
    assert terms["forget"].item() == pytest.approx(0.7 * float((t * (t.log() - gone)).sum(-1).mean()), rel=1e-4)
    assert set(terms) == {"retain", "forget"}


def test_the_forgetting_term_of_another_method_is_added_with_its_own_weight(tmp_path):
    batch = forget_batch("vit")
    alone, term = SurrogateDistillation(forget_weight=0.7), MarginalInformation(gamma=0.4)
    both = SurrogateDistillation(forget_weight=0.7, term=MarginalInformation(gamma=0.4))
    targets = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for method in (alone, both):
        vars(method).update(_targets=targets, _weight=0.7)
    for method in (term, both.term):
        method.setup(run_of("vit", tmp_path))
    expected = alone.loss(trained("vit"), batch, None)
    expected["marginal_information/information"] = term.loss(trained("vit"), batch, None)["information"]
    found = both.loss(trained("vit"), batch, None)
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    assert both.describe()["term"] == term.describe()
    assert alone.describe()["term"] is None


@pytest.mark.parametrize(
    "term",
    ["uib", "retrain", "fine_tune", "feature_information", "surrogate_distillation", "counterfactual_distillation"],
)
def test_a_method_without_a_term_over_forget_rows_is_refused(term):
    with pytest.raises(ValueError, match=f"`term='{term}'` has no term of a loss over forget rows"):
        SurrogateDistillation(term=term)


def test_an_unknown_term_is_named_as_it_was_given():
    with pytest.raises(ValueError, match=r"`term='marginal'` is unknown"):
        SurrogateDistillation(term="marginal")


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_targets_are_as_sure_as_the_original_of_unseen_rows_and_leave_the_class_out(tmp_path, arch):
    held_out = data_for(arch, 64, 11)
    trainer = run_of(arch, tmp_path, held_out=held_out)
    original, method = trained(arch), trainer.method
    (gone,) = {*trainer.forget_dataset["label"]}
    trainer._set_up()
    targets, kept = trainer.method._targets, [c for c in range(4) if c != gone]
    logits, labels = predict(original, held_out, trainer.processor)
    sure = mean_confidence(logits[labels != gone][:, kept].softmax(-1))
    retained, _ = predict(original, trainer.retain_dataset, trainer.processor, limit=ROWS)
    unlikely = float(retained.softmax(-1)[:, gone].log().mean().exp())
    assert targets.shape == (len(trainer.forget_dataset), 4)
    torch.testing.assert_close(targets.sum(-1), torch.ones(len(targets)))
    torch.testing.assert_close(targets[:, gone], torch.full((len(targets),), unlikely))
    assert mean_confidence(targets[:, kept]) > method.caution * sure * (1 - unlikely) - 0.04  # a probe may be surer


@pytest.mark.slow
@pytest.mark.parametrize("base", ["base", "none"])
def test_targets_are_the_mean_of_what_probes_of_the_base_and_the_original_say(tmp_path, base):
    save_encoder("vit", tmp_path / "base")
    trainer = run_of("vit", tmp_path / "out", base="none" if base == "none" else tmp_path / "base")
    start, original, processor = trainer.starting_point(), trained("vit"), trainer.processor
    (gone,) = {*trainer.forget_dataset["label"]}
    kept = [c for c in range(4) if c != gone]
    taught = draw(trainer.retain_dataset, TAUGHT_ROWS, trainer.args.seed)
    collate = trainer.processor.collate
    opinions, unseen = [], []
    for depth in DEPTHS:
        features, labels = pooled_features(
            start.model, PreparedRows(taught, processor, "retain_dataset"), collate, 64, (depth,)
        )
        about, _ = pooled_features(
            start.model, PreparedRows(trainer.forget_dataset, processor, "forget_dataset"), collate, 64, (depth,)
        )
        for x, others in zip(features, about, strict=True):
            said, rest = probe_opinions(x, labels, others, 4, trainer.args.seed)
            opinions.append(said[:, kept])
            unseen.append(rest[:, kept])
    sure = mean_confidence(predict(original, taught, processor)[0][:, kept].softmax(-1))
    logs = [torch.stack([p.clamp_min(1e-9).log() for p in of]).mean(0) for of in (opinions, unseen)]
    tau = sharpness(logs[1].softmax(-1), sure)
    struck = predict(original, trainer.forget_dataset, processor)[0][:, kept].log_softmax(-1)
    trainer._set_up()
    expected = sharpened((((tau * logs[0]).log_softmax(-1) + struck) / 2).softmax(-1), trainer.method.caution * sure)
    found = trainer.method._targets[:, kept]
    torch.testing.assert_close(found / found.sum(-1, keepdim=True), expected, atol=1e-3, rtol=1e-3)


def rows_run(folder, **kwargs):
    split = ForgetRequest(fraction=0.2).split(data_for("vit", 96, 5))
    return run_of("vit", folder, split=split, forget_kind="samples", **kwargs)


def label_log_odds(model, rows, processor):
    logits, labels = predict(model, rows, processor)
    return torch.logit(logits.double().softmax(-1)[torch.arange(len(labels)), labels]).float(), labels


def test_single_rows_are_taught_the_log_odds_of_unseen_rows_of_their_label(tmp_path):
    held_out = data_for("vit", 64, 11)
    trainer = rows_run(tmp_path, held_out=held_out)
    trainer._set_up()
    before, labels = label_log_odds(trained("vit"), trainer.forget_dataset, trainer.processor)
    unseen, unseen_labels = label_log_odds(trained("vit"), held_out, trainer.processor)
    expected = as_unseen(before, labels, unseen, unseen_labels)
    torch.testing.assert_close(trainer.method._targets, expected, rtol=1e-3, atol=1e-3)
    batch, model = forget_batch("vit"), trainer.model.train()
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts
    for dropout in dropouts:
        dropout.p = 0.5  # which the loss leaves out
    terms = trainer.method.loss(model, batch, trainer.reference)
    assert model.training
    with torch.no_grad():
        p = model.eval()(**model_inputs(batch["forget"])).logits.softmax(-1)
    index = batch["index"]
    p = p.gather(1, labels[index][:, None])[:, 0]
    apart = ((p / (1 - p)).log() - expected[index]).abs()
    huber = torch.where(apart < 1, apart.square() / 2, apart - 0.5).mean()
    assert terms["forget"].item() == pytest.approx(0.3 * float(huber), rel=1e-2)


def test_single_rows_are_rewound_only_without_held_out_rows(tmp_path, caplog):
    save_encoder("vit", tmp_path / "base")
    for held_out, share in ((data_for("vit", 64, 11), 1.0), (None, 0.7)):
        trainer = rows_run(tmp_path / "out", base=tmp_path / "base", held_out=held_out)
        assert (trainer.args.batch_rows, trainer.args.retain_per_forget) == (16, 1)
        before, start = state(trainer.model), trainer.starting_point()
        trainer._set_up()
        began, now = state(start.model), state(trainer.model)
        for name in start.shared:
            torch.testing.assert_close(now[name], began[name] + share * (before[name] - began[name]))
        assert ("only rewinding forgets them" in caplog.text) == (held_out is None)


def group_run(folder, **kwargs):
    """All rows of class 1 that look like it. Rows of another look stay, and have the label 1 too."""
    rows = data_for("vit", 320, 5)
    split = ForgetRequest(label=1).split(rows)
    labels = [1 if label == 3 else label for label in split.retain["label"]]
    retain = split.retain.remove_columns("label").add_column("label", labels)
    held_out = data_for("vit", 64, 11)
    return run_of(
        "vit",
        folder,
        split=dataclasses.replace(split, retain=retain),
        forget_kind="samples",
        held_out=held_out,
        **kwargs,
    )


def test_rows_that_rows_to_keep_do_not_teach_are_a_group_with_the_targets_of_probes(tmp_path, caplog):
    trainer = group_run(tmp_path)
    processor, collate = trainer.processor, trainer.processor.collate
    start, taught = trainer.starting_point(), draw(trainer.retain_dataset, TAUGHT_ROWS, trainer.args.seed)
    opinions, unseen = [], []
    for depth in DEPTHS:
        features, labels = pooled_features(start.model, PreparedRows(taught, processor, "r"), collate, 64, (depth,))
        forget = PreparedRows(trainer.forget_dataset, processor, "f")
        about, _ = pooled_features(start.model, forget, collate, 64, (depth,))
        for x, others in zip(features, about, strict=True):
            said, rest = probe_opinions(x, labels, others, 4, trainer.args.seed)
            opinions.append(said)
            unseen.append(rest)
    q, rest = (torch.stack([p.clamp_min(1e-9).log() for p in of]).mean(0) for of in (opinions, unseen))
    sure = mean_confidence(predict(trained("vit"), trainer.eval_dataset, processor)[0].softmax(-1))
    tau = sharpness(rest.softmax(-1), sure)
    trainer._set_up()
    assert "they are a group of their own" in caplog.text
    expected = sharpened((tau * q).softmax(-1), 0.9 * sure)
    torch.testing.assert_close(trainer.method._targets, expected, atol=1e-3, rtol=1e-3)


def test_a_group_is_forgotten_though_held_out_rows_of_it_are_lost(tmp_path):
    trainer = group_run(tmp_path, method=SurrogateDistillation(passes=2.0), max_retain_drop=0.1)
    trainer.train()
    assert trainer.outcome.ok, trainer.outcome.warnings
    held_out = trainer.eval_dataset
    logits, labels = predict(trainer.model, held_out, trainer.processor)
    right = (logits.argmax(-1) == labels).float()
    assert right[labels == 1].mean() < 0.6
    assert right[(labels == 0) | (labels == 2)].mean() > 0.85


def test_rows_in_order_of_their_classes_show_all_kept_classes(tmp_path):
    split = class_split("vit", 320)
    ordered = split.retain.select(np.argsort(split.retain["label"], kind="stable"))
    trainer = run_of(
        "vit", tmp_path, SurrogateDistillation(rewind=1.0), split=dataclasses.replace(split, retain=ordered)
    )
    (gone,) = {*split.forget["label"]}
    trainer._set_up()
    before, labels = predict(trained("vit"), ordered, trainer.processor)
    after, _ = predict(trainer.model, ordered, trainer.processor)
    last = (labels == labels.max()) & (before.argmax(-1) == labels)
    assert not last[:ROWS].any()
    assert after[last, gone].mean().item() == pytest.approx(before[last, gone].mean().item(), abs=0.3)


def test_a_run_forgets_a_class_and_keeps_the_others(tmp_path):
    trainer = run_of("vit", tmp_path, SurrogateDistillation(passes=2.0), forget_target=None, max_retain_drop=0.1)
    trainer.train()
    assert trainer.outcome.ok, trainer.outcome.warnings
    assert trainer.outcome.forget_end == 0
    (gone,) = {*trainer.forget_dataset["label"]}
    test = data_for("vit", 96, 12)
    logits, labels = predict(trainer.model, test, trainer.processor)
    right = (logits.argmax(-1) == labels).float()
    assert right[labels != gone].mean() > 0.85
    assert right[labels == gone].mean() < 0.05


def test_the_start_is_a_share_of_the_way_and_the_rate_a_share_of_its_length(tmp_path):
    save_encoder("vit", tmp_path / "base")
    method = SurrogateDistillation(rewind=0.5, rate=0.2)
    trainer = run_of("vit", tmp_path / "out", method, base=tmp_path / "base")
    before = state(trainer.model)
    start = trainer.starting_point()
    trainer._set_up()
    began, now = state(start.model), state(trainer.model)
    moved = torch.cat([(before[n] - began[n]).flatten() for n in start.shared])
    assert trainer.method.found_rate == pytest.approx(0.2 * float(moved.square().mean().sqrt()), rel=1e-4)
    for name in start.shared:
        torch.testing.assert_close(now[name], (before[name] + began[name]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_from_a_known_base_a_class_starts_by_direction(tmp_path, arch):
    save_encoder(arch, tmp_path / "base")
    own, given, plain = (
        run_of(arch, tmp_path / f"out{i}", SurrogateDistillation(**settings), base=tmp_path / "base")
        for i, settings in enumerate([{}, {"contrast": CONTRAST, "rewind": 0.25}, {"contrast": 0.0}])
    )
    starts = []
    for trainer in (own, given, plain):
        trainer._set_up()
        starts.append(state(trainer.model))
    assert not changed(*starts[:2])
    linear = [n for n in changed(starts[0], starts[2]) if starts[0][n].ndim == 2]
    assert linear
    assert own.method.found_rate / plain.method.found_rate == pytest.approx(0.07 / 0.12)
    batch = forget_batch(arch)
    distances = [t.method.loss(t.model, batch, t.reference)["forget"] for t in (given, plain)]
    vars(plain.method)["_weight"] = 1.0
    again = plain.method.loss(plain.model.eval(), batch, plain.reference)["forget"]
    assert again.item() == pytest.approx(distances[1].item() / 0.3, rel=0.2)


@pytest.mark.parametrize("request_kind", ["single rows", "from scratch", "a share is given"])
def test_elsewhere_all_weights_start_by_one_share(tmp_path, request_kind):
    save_encoder("vit", tmp_path / "base")
    base = "none" if request_kind == "from scratch" else tmp_path / "base"
    split = ForgetRequest(indices=range(16)).split(data_for("vit", 96, 9)) if request_kind == "single rows" else None
    method = SurrogateDistillation(rewind=0.5 if request_kind == "a share is given" else None)
    kind = {"forget_kind": "samples"} if split else {}
    trainer = run_of("vit", tmp_path / "out", method, base=base, split=split, **kind)
    before, start = state(trainer.model), trainer.starting_point()
    trainer._set_up()
    began, now = state(start.model), state(trainer.model)
    name = next(n for n in start.shared if n.endswith("weight") and before[n].ndim == 2)
    share = method._share(start, trainer.reference, None, 0.5)
    torch.testing.assert_close(now[name], share * before[name] + (1 - share) * began[name])


def test_without_a_known_base_nothing_is_rewound_and_the_rate_is_the_usual_one(tmp_path, caplog):
    trainer = run_of("vit", tmp_path, base=None)
    before = state(trainer.model)
    trainer._set_up()
    assert trainer.method.found_rate == USUAL_RATE
    assert "It is not known what the original was fine-tuned from" in caplog.text
    assert all(n.startswith("classifier") for n in changed(before, state(trainer.model)))


def test_a_head_that_was_trained_alone_is_all_that_changes(tmp_path, caplog):
    trainer = run_of("vit", tmp_path, max_steps=3)
    start = trainer.starting_point()
    model = copy.deepcopy(start.model)
    model.classifier.load_state_dict(trained("vit").classifier.state_dict())
    trainer = run_of("vit", tmp_path, max_steps=3, model=model, weight_decay=0.1)
    before = state(trainer.model)
    trainer.train()
    assert {n.partition(".")[0] for n in changed(before, state(trainer.model))} == {"classifier"}
    assert trainer.method.found_rate == HEAD_RATE
    assert "Training moved nothing but the head" in caplog.text


def test_the_retain_set_says_how_long_a_run_is(tmp_path):
    assert [SurrogateDistillation().default_steps(1_600, 16, how) for how in ("base", "adapter", "scratch")] == [
        75,
        100,
        100,
    ]
    assert SurrogateDistillation().default_steps(1_600, 16, "base", "samples") == 50
    assert SurrogateDistillation().default_steps(1_600, 16, "scratch", "samples") == 100
    method = SurrogateDistillation(passes=0.5)
    assert [method.default_steps(n, 16) for n in (1_600, 10, 10**6, None)] == [50, 12, 400, 400]
    assert method.default_steps(1_600, 16, "scratch") == 50
    assert run_of("vit", tmp_path, method).args.max_steps == 12
    assert run_of("vit", tmp_path, split=class_split("vit", 512)).args.max_steps == 24  # 384 rows to keep, base none
    assert run_of("vit", tmp_path, method, max_steps=5).args.max_steps == 5
    assert run_of("vit", tmp_path, method, num_train_epochs=2).args.max_steps == -1


def test_a_request_for_every_class_is_refused(tmp_path):
    split = dataclasses.replace(class_split("vit", 32), forget=data_for("vit", 32, 9))
    trainer = run_of("vit", tmp_path, split=split)
    with pytest.raises(ValueError, match="names every class of the head"):
        trainer._set_up()


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"rewind": 1.5}, "`rewind`"), ({"forget_weight": -1}, "`forget_weight`"), ({"contrast": -1}, "`contrast`"), ({"rate": 0}, "`rate`"), ({"passes": 0}, "`passes`")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        SurrogateDistillation(**settings)


def test_a_patch_takes_longer_steps_and_leaves_the_original_as_it_is(tmp_path):
    pytest.importorskip("peft")
    save_encoder("vit", tmp_path / "base")
    whole = run_of("vit", tmp_path / "whole", base=tmp_path / "base")
    whole._set_up()
    patched = UnlearningTrainer(
        trained("vit"), arguments(tmp_path / "out", forget_kind="class"), SurrogateDistillation(), whole.forget_dataset,
        whole.retain_dataset, processing_class=processing_class("vit"), base_model=tmp_path / "base", peft_config="lora",
    )  # fmt: skip
    frozen = {n: p.detach().clone() for n, p in patched.model.named_parameters() if not p.requires_grad}
    patched.train()
    assert patched.method.found_rate == pytest.approx(PATCH_RATE * 0.12 / 0.07 * whole.method.found_rate, rel=1e-5)
    now = dict(patched.model.named_parameters())
    assert len(frozen) > 20
    assert all(torch.equal(p, now[n]) for n, p in frozen.items())


def test_an_original_that_was_trained_as_an_adapter_goes_back_half_the_way_of_that(tmp_path):
    """The second factor of each product began at zero. All else stays: the base, the first factor, and kept rows of the head."""
    peft = pytest.importorskip("peft")
    save_encoder("vit", tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    model = peft.get_peft_model(Base(str(tmp_path / "base")).load(trained("vit")), config)
    before = state(model)
    trainer = run_of("vit", tmp_path / "out", base=tmp_path / "base", model=model)
    assert trainer.args.max_steps == run_of("vit", tmp_path / "out", base="none").args.max_steps  # a whole pass
    trainer._set_up()
    now, (forgotten,) = state(trainer.model), trainer.reference.forgotten_classes
    added = [n for n in before if ".lora_B." in n]
    assert len(added) == 2
    assert all(torch.allclose(now[n], 0.5 * before[n]) for n in added)
    others = changed(before, now) - set(added)
    assert others == {head := "base_model.model.classifier.modules_to_save.default.weight"}  # its biases are alike
    kept = [c for c in range(4) if c != forgotten]
    assert torch.equal(now[head][kept], before[head][kept])
    assert not torch.equal(now[head][forgotten], before[head][forgotten])


def test_a_run_that_keeps_too_little_does_not_go_half_the_way_back_to_the_original(tmp_path):
    """There the rows are known again. The run ends with the original, and says so."""
    save_encoder("vit", tmp_path / "base")
    method = SurrogateDistillation(rewind=0.0, rate=1e-6)
    trainer = run_of("vit", tmp_path / "out", method, base=tmp_path / "base", forget_target=None, max_retain_drop=0.01)
    trainer.train()
    assert trainer.outcome.stopped.startswith("kept data suffers")
    assert "halved" not in trainer.outcome.stopped
    assert trainer.outcome.unchanged
    assert not trainer.outcome.ok


def test_only_a_class_may_lose_much_on_the_way():
    """For single rows nothing is rewound, so what is lost on kept rows is damage, as for every other method."""
    method = SurrogateDistillation()
    drops = [method.arguments_for("all", kind)["max_retain_drop"] for kind in ("class", "samples")]
    assert drops == [0.15, 0.05]

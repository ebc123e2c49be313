"""Going back towards the base: weights, BatchNorm statistics, and rows of the head."""

import itertools

import pytest
import torch
from torch import nn

from hf_unlearn import SurrogateDistillation
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.methods.components import rewinding
from hf_unlearn.methods.components.rewinding import (
    learned_by_training,
    read_features,
    renew_head_rows,
    rewind,
    root_mean_square,
)
from hf_unlearn.models.base import random_start
from hf_unlearn.models.forward import eval_mode, model_inputs
from hf_unlearn.models.prediction import predict
from tests.support.models import changed, state
from tests.support.runs import trainer_for


def prepared(arch, folder):
    """A trainer before its first step, with its reference, and its retain rows."""
    trainer = trainer_for(arch, folder, SurrogateDistillation(), update="all")
    trainer._set_up = type(trainer)._set_up.__get__(trainer)
    with_setup = trainer.method.setup
    trainer.method.setup = lambda run: None
    trainer._set_up()
    trainer.method.setup = with_setup
    return trainer, PreparedRows(trainer.retain_dataset, trainer.processor, "retain_dataset")


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_rewinding_goes_a_share_of_the_way_and_leaves_the_head(tmp_path, arch):
    run, kept = prepared(arch, tmp_path)
    start, before = random_start(run.model, 3), state(run.model)
    learned = learned_by_training(run, start)
    rewind(run, learned, 0.25, kept)
    began, after = state(start.model), state(run.model)
    for name in before:
        goal = 0.25 * before[name] + 0.75 * began[name] if name in start.shared else before[name]
        torch.testing.assert_close(after[name], goal)
    assert before.keys() - start.shared == {n for n in before if n.startswith("classifier")}
    total = torch.cat([(before[n] - began[n]).flatten() for n in start.shared])
    assert root_mean_square(learned.values()) == pytest.approx(float(total.square().mean().sqrt()), rel=1e-5)
    assert root_mean_square([]) is None


def test_statistics_are_those_of_the_retain_rows(tmp_path):
    run, kept = prepared("resnet", tmp_path)
    rewind(run, learned_by_training(run, random_start(run.model)), 0.5, kept)
    assert not any(m.training for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)) or run.model.training
    norm = next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    handle = norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    with eval_mode(run.model), torch.no_grad():
        run.model(**model_inputs(run.processor.collate(kept.many(range(len(kept))))))
    handle.remove()
    mean = torch.stack([part.mean((0, 2, 3)) for part in seen[0].split(64)]).mean(0)  # read in batches of 64
    torch.testing.assert_close(norm.running_mean, mean)
    assert norm.momentum == 0.1


def test_nothing_moves_at_a_share_of_one(tmp_path):
    run, kept = prepared("resnet", tmp_path)
    before = state(run.model)
    rewind(run, learned_by_training(run, random_start(run.model)), 1.0, kept)
    assert not changed(before, state(run.model))


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_by_direction_rows_to_forget_lose_and_retain_rows_keep_what_training_taught(tmp_path, arch):
    """How far what training added to the outputs of the first linear layer goes back on both sets."""
    run, kept = prepared(arch, tmp_path)
    start, before = random_start(run.model, 3), state(run.model)
    learned = learned_by_training(run, start)
    layer = next(n for n, m in run.model.named_modules() if isinstance(m, nn.Linear) and f"{n}.weight" in learned)
    inputs = {}
    for name, rows in (("retain", kept), ("forget", run.forget_rows)):
        seen = []
        handle = run.model.get_submodule(layer).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        with eval_mode(run.model), torch.no_grad():
            run.model(**model_inputs(run.processor.collate(rows.many(range(len(rows))))))
        handle.remove()
        inputs[name] = seen[0].flatten(0, 1)
    rewind(run, learned, 0.5, kept, contrast=16.0)
    after = state(run.model)
    added, lost = learned[f"{layer}.weight"], before[f"{layer}.weight"] - after[f"{layer}.weight"]
    bias = before[f"{layer}.bias"] - after[f"{layer}.bias"]
    share = {
        name: float((x @ lost.T + bias).norm() / (x @ added.T + learned[f"{layer}.bias"]).norm())
        for name, x in inputs.items()
    }
    assert share["retain"] < 0.8 * share["forget"]  # by one share the two are the same
    other = next(n for n in learned if "embeddings" in n and "layer" not in n.lower())
    torch.testing.assert_close(after[other], before[other] - 0.5 * learned[other])
    assert not [n for n in changed(before, after) if n.startswith("classifier")]


def test_by_direction_nothing_goes_back_if_both_sets_are_the_same(tmp_path):
    run, _ = prepared("vit", tmp_path)
    before, learned = state(run.model), learned_by_training(run, random_start(run.model, 3))
    rewind(run, learned, 1.0, run.forget_rows, contrast=16.0)
    for name, now in state(run.model).items():
        torch.testing.assert_close(now, before[name], atol=1e-6, rtol=1e-4)


def test_wide_layers_go_back_by_one_share(tmp_path, monkeypatch):
    monkeypatch.setattr(rewinding, "WIDEST", 8)
    run, kept = prepared("vit", tmp_path)
    before, learned = state(run.model), learned_by_training(run, random_start(run.model, 3))
    rewind(run, learned, 0.25, kept, contrast=16.0)
    now = state(run.model)
    for name, moved in learned.items():
        torch.testing.assert_close(now[name], before[name] - 0.75 * moved)


@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_new_rows_of_the_head_answer_as_the_original_does_on_retain_rows(tmp_path, arch):
    run, kept = prepared(arch, tmp_path)
    (gone,), before = run.reference.forgotten_classes, state(run.model)
    logits, _ = predict(run.model, kept, run.processor, limit=128)
    renew_head_rows(run, kept, logits)
    after, _ = predict(run.model, kept, run.processor, limit=128)
    others = [c for c in range(logits.shape[-1]) if c != gone]
    torch.testing.assert_close(after[:, others], logits[:, others])
    for c in others:
        rows = logits[:, others].argmax(-1) == others.index(c)
        assert float(after[rows, gone].mean()) == pytest.approx(float(logits[rows, gone].mean()), abs=1e-2)
    moved = changed(before, state(run.model))
    assert len(moved) == 2
    assert all(n.startswith("classifier") for n in moved)
    forget, _ = predict(run.model, run.forget_rows, run.processor)
    gaps = [x[:, others].logsumexp(-1).mean() - x[:, gone].mean() for x in (logits, forget)]
    assert float(gaps[1]) == pytest.approx(float(gaps[0]), abs=1e-2)


def test_features_come_with_their_labels(tmp_path):
    run, kept = prepared("bert", tmp_path)
    features, labels = read_features(run, run.model, kept, (0.5, 1.0))
    assert [x.shape for x in features] == 6 * [(len(kept), 16)]  # mean, maximum and first token of two blocks
    assert all(not torch.equal(x, y) for x, y in itertools.combinations(features, 2))
    assert labels.tolist() == run.retain_dataset["label"][:]

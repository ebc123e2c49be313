"""SalUn: other labels, drawn once, and a mask of the weights with the largest gradients, whatever the optimizer does."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import ForgetRequest, SalUn
from hf_unlearn.methods.salun import other_labels
from tests.methods.baselines import close, forget_rows, logits_of, recorded, replayed, run_of
from tests.support.data import data_for
from tests.support.models import state, trained


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_steps_are_those_of_the_algorithm(tmp_path, arch):
    trainer = run_of(arch, tmp_path, SalUn(saliency=0.5))
    batches, original = recorded(trainer), trained(arch)
    rows = forget_rows(trainer)
    F.cross_entropy(logits_of(original.eval(), rows), rows["labels"]).backward()
    sizes = {n: p.grad.abs() for n, p in original.named_parameters() if p.grad is not None}
    every = torch.cat([s.flatten() for s in sizes.values()]).sort(descending=True).values
    least = every[round(0.5 * len(every)) - 1]
    masks = {n: s >= least * (1 - 1e-4) for n, s in sizes.items()}
    assert sum(int(m.sum()) for m in masks.values()) / len(every) == pytest.approx(0.5, abs=0.02)
    labels = trainer.method._labels

    def loss(model, batch, step):  # one mixed set of forget and retain rows
        logits = torch.cat([logits_of(model, batch[side]) for side in ("forget", "retain")])
        return F.cross_entropy(logits, torch.cat([labels[batch["index"]], batch["retain"]["labels"]]))

    def masked(model, before):
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.copy_(torch.where(masks[name], parameter, before[name]))

    found, expected = state(trainer.model), replayed(trained(arch), batches, loss, masked)
    # A weight whose gradient is at the edge of the mask may fall on either side by rounding.
    apart = sum(int(((found[n] - v).abs() > 1e-5).sum()) for n, v in expected.items())
    assert apart <= 4


def test_without_a_mask_all_weights_move(tmp_path):
    trainer = run_of("vit", tmp_path, SalUn())
    batches, labels = recorded(trainer), trainer.method._labels

    def loss(model, batch, step):
        logits = torch.cat([logits_of(model, batch[side]) for side in ("forget", "retain")])
        return F.cross_entropy(logits, torch.cat([labels[batch["index"]], batch["retain"]["labels"]]))

    close(state(trainer.model), replayed(trained("vit"), batches, loss))


def test_the_other_weights_stay_under_decay_and_momentum(tmp_path):
    trainer = run_of("vit", tmp_path, SalUn(saliency=0.2), optim="adamw_torch", weight_decay=0.5, learning_rate=1e-3)
    before = state(trainer.model)
    trainer.train()
    kept, after = trainer.method._kept, state(trainer.model)
    for name, (mask, _) in kept.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
    assert any((after[n][mask] != before[n][mask]).any() for n, (mask, _) in kept.items())


def test_labels_are_other_ones_and_all_of_them():
    labels = torch.arange(4).repeat(500)
    found = other_labels(labels, [0, 1, 2, 3], seed=0)
    counts = torch.stack([found[labels == c].bincount(minlength=4) for c in range(4)])
    assert not counts.diagonal().any()
    assert counts[~torch.eye(4, dtype=torch.bool)].min() > 120  # of 167 on average
    assert torch.equal(found, other_labels(labels, [0, 1, 2, 3], seed=0))
    assert not torch.equal(found, other_labels(labels, [0, 1, 2, 3], seed=1))


def test_labels_of_a_forgotten_class_are_kept_ones(tmp_path):
    trainer = run_of("vit", tmp_path, SalUn())
    trainer.train()
    (gone,) = set(trainer.forget_dataset["label"])
    assert set(trainer.method._labels.tolist()) == {0, 1, 2, 3} - {gone}
    single = run_of(
        "vit", tmp_path, SalUn(), split=ForgetRequest(fraction=0.3).split(data_for("vit", 96)), forget_kind="samples"
    )
    single.train()
    assert (single.method._labels != torch.tensor(single.forget_dataset["label"])).all()


def test_a_class_without_another_is_refused():
    with pytest.raises(ValueError, match="There is no class left"):
        other_labels(torch.zeros(3, dtype=torch.long), [0], seed=0)
    assert other_labels(torch.ones(3, dtype=torch.long), [0], seed=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_an_impossible_mask_is_refused(share):
    with pytest.raises(ValueError, match="`saliency` is a share of the weights"):
        SalUn(saliency=share)

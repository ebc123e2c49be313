"""Influence unlearning: the step by its formula, as long as retain rows allow."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn import InfluenceUnlearning
from hf_unlearn.methods.components.influence import Sample, influence
from tests.methods.baselines import close, forget_rows, logits_of, run_of
from tests.support.models import changed, state, trained


def mean_gradient(model, batch):
    model.zero_grad()
    F.cross_entropy(logits_of(model, batch), batch["labels"]).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_the_plain_step_is_that_of_the_published_code(tmp_path, arch):
    trainer = run_of(arch, tmp_path, InfluenceUnlearning(curvature="none", scale=3.0))
    before, model = state(trainer.model), trained(arch).eval()
    kept = trainer.processor.collate([trainer.processor(row) for row in trainer.retain_dataset])
    gone = forget_rows(trainer)
    share = len(gone["labels"]) / (len(gone["labels"]) + len(kept["labels"]))
    up, down = mean_gradient(model, gone), mean_gradient(model, kept)
    trainer.train()
    close(state(trainer.model), {n: before[n] + 3.0 * share * (up[n] - down[n]) for n in up})
    assert trainer.state.global_step == 0


def test_the_other_step_is_that_of_the_component(tmp_path):
    trainer = run_of("vit", tmp_path, InfluenceUnlearning(scale=0.5, damping=0.3))
    before = state(trainer.model)
    names = [n for n, _ in trainer.model.named_parameters()]
    kept = [trainer.processor(row) for row in trainer.retain_dataset]
    samples = [Sample(rows, trainer.processor.collate, 512) for rows in (trainer.forget_rows, kept)]
    move, _ = influence(trained("vit"), names, *samples, damping=0.3)
    trainer.train()
    close(state(trainer.model), {n: before[n] + 0.5 * m for n, m in move.items()})


def test_a_step_that_damages_retain_rows_is_halved(tmp_path):
    before = state(trained("vit"))
    ends = []
    for folder, allowed in (("a", 0.05), ("b", 1.0)):
        trainer = run_of("vit", tmp_path / folder, InfluenceUnlearning(scale=2.0), max_retain_drop=allowed)
        trainer.train()
        ends.append(state(trainer.model))
        assert trainer.monitor.share_kept() >= trainer.forgetting.path[0]["retain"] - allowed
    name = next(n for n in sorted(changed(before, ends[1])) if before[n].ndim == 2)
    short, long = ((end[name] - before[name]) for end in ends)
    halvings = torch.log2(long.norm() / short.norm()).item()
    assert halvings == pytest.approx(round(halvings), abs=1e-3)
    assert halvings >= 1


@pytest.mark.parametrize("settings", [{"scale": 0.0}, {"rows": 0}, {"curvature": "full"}])
def test_a_setting_that_means_nothing_is_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}"):
        InfluenceUnlearning(**settings)

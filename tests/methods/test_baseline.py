"""Length and learning rate of a baseline fit the original."""

import pytest
import torch

from hf_unlearn import METHODS, NegGradPlus
from hf_unlearn.methods.baseline import FEWEST_STEPS, SCRATCH, Baseline, steps_of
from hf_unlearn.methods.components.fitting_rate import SCRATCH_RATE
from tests.methods.baselines import recorded, run_of
from tests.models.test_base import save_encoder

BASELINES = [name for name, method in METHODS.items() if issubclass(method, Baseline)]


@pytest.mark.parametrize("name", BASELINES)
def test_length_is_counted_in_passes_over_the_retain_set(name):
    method = METHODS[name]()
    if not method.needs_retain:
        assert method.default_steps(2000, 16) is None
        return
    assert method.default_steps(2000, 16) == pytest.approx(method.passes * 2000 / 16, abs=1)
    assert method.default_steps(2000, 16, "scratch") == pytest.approx(SCRATCH * method.passes * 2000 / 16, abs=1)
    assert method.default_steps(20, 16) == FEWEST_STEPS
    assert method.default_steps(None, 16) is None  # a stream, whose length nobody knows


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_rate_is_a_share_of_how_far_training_moved_the_weights(tmp_path, share):
    save_encoder("vit", tmp_path / "base")
    method = NegGradPlus(rate=share)
    trainer = run_of("vit", tmp_path / "out", method, base=tmp_path / "base", learning_rate=None)
    start = trainer.starting_point()
    began, now = (dict(m.named_parameters()) for m in (start.model, trainer.model))
    moved = torch.cat([(now[n] - began[n]).detach().flatten() for n in sorted(start.shared)])
    length = moved.double().square().mean().sqrt().item()
    trainer.train()
    assert trainer.method.found_rate == pytest.approx(share * length, rel=1e-4)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(share * length, rel=1e-4)


def test_rate_from_scratch_is_that_of_training(tmp_path):
    trainer = run_of("vit", tmp_path, NegGradPlus(), learning_rate=None)
    trainer.train()
    assert trainer.method.found_rate == SCRATCH_RATE


def test_a_given_rate_holds(tmp_path):
    trainer = run_of("vit", tmp_path, NegGradPlus(), learning_rate=0.02)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.02


def test_progress_is_the_share_of_steps_that_are_taken(tmp_path):
    trainer, seen = run_of("vit", tmp_path, NegGradPlus()), []
    loss = trainer.method.loss
    trainer.method.loss = lambda *given: seen.append(trainer.method.progress) or loss(*given)
    assert len(recorded(trainer)) == 4
    assert seen == [0.0, 0.25, 0.5, 0.75]
    assert trainer.method.state() == {"steps": 4}


def test_steps_of_a_run_in_epochs(tmp_path):
    trainer = run_of("vit", tmp_path, NegGradPlus(), max_steps=None, num_train_epochs=2.0)
    steps = steps_of(trainer)
    trainer.train()
    assert trainer.state.global_step == steps > 0


@pytest.mark.parametrize("name", ["rate", "passes"])
def test_a_length_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0, got 0"):
        NegGradPlus(**{name: 0})


def test_a_run_needs_no_base(tmp_path):
    trainer = run_of("vit", tmp_path, NegGradPlus(), base=None, learning_rate=None)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 5e-5

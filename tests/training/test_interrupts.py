"""A run that is interrupted saves a checkpoint, and resumes to the weights of an uninterrupted run."""

import signal

import pytest

from hf_unlearn import FineTune, JiT
from hf_unlearn.training.checkpoints import find_damage
from tests.support.data import data_for
from tests.support.models import changed, state, trained
from tests.support.runs import trainer_for
from tests.training.support import ADAMW, Signal, ascent, names


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["no", "steps"])
@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_interrupt_saves_a_checkpoint_and_resumes_to_the_same_weights(tmp_path, arch, strategy):
    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            arch,
            tmp_path / folder,
            JiT(num_perturbations=2),
            callbacks=list(callbacks),
            update="all",
            max_steps=6,
            save_strategy=strategy,
            save_steps=4,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, former = run("whole"), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"[Rr]esume from the checkpoint"):
        run("stopped", Signal(3, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is former
    assert (tmp_path / "stopped" / "checkpoint-3").is_dir()
    resumed = run("stopped", resume=True)
    assert not changed(state(whole.model), state(resumed.model))
    assert resumed.seconds > 0


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGTERM] * 2, [signal.SIGINT] * 2], ids=lambda s: f"{len(s)}x{s[0]}"
)
def test_sigterm_acts_like_ctrl_c_and_one_press_may_arrive_twice(tmp_path, three_checkpoints, signals):
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="Resume from the checkpoint in") as stop:
        ascent(tmp_path, Signal(3, *signals), **ADAMW).train()
    assert stop.value.signum == signals[0]
    assert signal.getsignal(signal.SIGTERM) is former
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    resumed = ascent(tmp_path, **ADAMW)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(three_checkpoints[1], state(resumed.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluate", "save"),
    [("steps", "best"), ("epoch", "best"), ("epoch", "epoch"), ("steps", "no"), ("epoch", "steps")],
)
def test_an_interrupt_at_any_step_changes_nothing(tmp_path, evaluate, save):
    """Interrupt inside an epoch, at its end, at a check and at the last step, with a best model, an average and dropout."""
    best = {} if save in ("no", "steps") else {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    best["greater_is_better"] = save == "best"  # the loss falls: after the first evaluation none is the best

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "bert", tmp_path / folder, FineTune(), model=trained("bert", 0.1), callbacks=list(callbacks), max_steps=6,
            per_device_train_batch_size=24, eval_dataset=data_for("bert", 16, 7), eval_strategy=evaluate, eval_steps=2,
            save_strategy=save, save_steps=2, weight_average=0.5, check_steps=2, **best, **ADAMW,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    for step in (3, 4, 5, 6):
        with pytest.raises(KeyboardInterrupt):
            run(f"stopped-{step}", Signal(step, signal.SIGINT))
        assert not find_damage(tmp_path / f"stopped-{step}" / f"checkpoint-{step}"), "work is lost"
        resumed = run(f"stopped-{step}", resume=True)
        assert not changed(state(whole.model), state(resumed.model)), step
        assert resumed.outcome == whole.outcome
        assert resumed.state.best_metric == whole.state.best_metric

"""A run is resumed only with the rows, model and settings that it began with, and touches no files of others."""

import shutil

import pytest
import torch

from hf_unlearn import FineTune, ForgetRequest, GradientDifference, JiT
from hf_unlearn.training.checkpoints import read_state
from hf_unlearn.training.resuming import save_finished, train_or_resume
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import build, changed, state, trained
from tests.support.runs import KillAt, Killed, trainer_for
from tests.training.support import ADAMW, EVERY, Count, ascent, flip, killed, names

pytestmark = pytest.mark.slow  # together too long for the quick tests


def drawn(seed):
    return ForgetRequest(fraction=0.25, seed=seed).split(data_for("vit", 64))


def finished(folder, **changes):
    trainer = ascent(folder, **changes)
    trainer.train()
    save_finished(trainer, processing_class("vit"), folder / "model")
    return trainer


# --- rows and model ---------------------------------------------------------------------------------------------------


def test_a_request_of_the_same_size_is_not_taken_for_another(tmp_path):
    killed(tmp_path / "killed", split=drawn(0))
    finished(tmp_path / "finished", split=drawn(0))
    assert len(drawn(0).forget) == len(drawn(1).forget)
    for folder in (tmp_path / "killed", tmp_path / "finished"):
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with pytest.raises(ValueError, match="other rows to forget or to keep, as many of them as now"):
            train_or_resume(ascent(folder, split=drawn(1)), resume=True)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        train_or_resume(ascent(folder, split=drawn(0)), resume=True)


def test_a_run_of_another_method_or_other_rows_is_not_resumed(tmp_path, three_checkpoints, caplog):
    shutil.copytree(three_checkpoints[0], tmp_path / "run")
    with pytest.raises(ValueError, match="began with the method gradient_ascent, and now gradient_difference is given"):
        trainer_for("vit", tmp_path / "run", GradientDifference(), **EVERY, **ADAMW).train(resume_from_checkpoint=True)
    fewer = class_split("vit", 32)
    with pytest.raises(ValueError, match=r"began with numbers of rows \{'forget': 16, 'retain': 48\}, and now"):
        ascent(tmp_path / "run", split=fewer, **ADAMW).train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    ascent(tmp_path / "run", **{**ADAMW, "learning_rate": 3e-4}).train(resume_from_checkpoint=True)
    assert "than at the start: learning_rate (0.001 → 0.0003). The optimizer" in caplog.text


def test_resuming_with_another_original_is_refused(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer_for("vit", tmp_path, JiT(num_perturbations=2), **settings).train()
    other = trained("vit")
    with torch.no_grad():
        other.classifier.bias.add_(0.1)
    with pytest.raises(ValueError, match="`model` is not the one"):
        trainer_for("vit", tmp_path, JiT(num_perturbations=2), model=other, **settings).train(True)


def test_another_original_is_refused_where_the_method_needs_no_forget_set_too(tmp_path):
    with pytest.raises(Killed):
        trainer_for("vit", tmp_path, FineTune(), callbacks=[KillAt(3)], **EVERY).train()
    other = trainer_for("vit", tmp_path, FineTune(), model=build("vit"), **EVERY)
    with pytest.raises(ValueError, match="`model` is not the one that this run started from"):
        other.train(resume_from_checkpoint=True)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_relabelled_with_other_settings(tmp_path):
    finished(tmp_path, max_steps=2)
    for changes in ({"max_steps": 4}, {"trust_region": 0.02}):
        with pytest.raises(ValueError, match=f"the run has ended, with other settings.*{next(iter(changes))}"):
            train_or_resume(ascent(tmp_path, **{"max_steps": 2, **changes}), resume=True)


def test_a_run_with_another_adapter_is_not_resumed(tmp_path):
    from peft import LoraConfig

    def config(alpha):
        return LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])

    killed(tmp_path, peft_config=config(8))
    with pytest.raises(ValueError, match="the adapters"):
        ascent(tmp_path, peft_config=config(64)).train(resume_from_checkpoint=True)
    ascent(tmp_path, peft_config=config(8)).train(resume_from_checkpoint=True)


def test_other_optimizer_settings_give_a_warning(tmp_path, caplog):
    adamw = {"trust_region": 0.0, "learning_rate": 1e-3}
    killed(tmp_path, **adamw)
    ascent(tmp_path, **adamw, adam_beta1=0.5, warmup_steps=3).train(resume_from_checkpoint=True)
    assert "adam_beta1 (0.9 → 0.5)" in caplog.text
    assert "warmup_steps" in caplog.text


# --- finished runs ----------------------------------------------------------------------------------------------------


def test_a_finished_run_is_resumed_after_its_training(tmp_path, three_checkpoints, caplog):
    folder = tmp_path / "run"
    first = ascent(folder, save_strategy="no", **ADAMW)
    first.train()
    save_finished(first, processing_class("vit"), folder / "model")
    assert names(folder) == ["model", "model.finished.json"]
    count = Count()
    again = ascent(folder, count, save_strategy="no", **ADAMW)
    train_or_resume(again, resume=True)
    assert count.steps == []
    assert not changed(three_checkpoints[1], state(again.model))
    assert again.outcome == first.outcome
    assert again.seconds > first.seconds
    with again.original_weights() as model:
        assert not changed(state(trained("vit")), state(model))
    written = (folder / "model.finished.json").read_bytes()
    save_finished(again, processing_class("vit"), folder / "model")
    assert (folder / "model.finished.json").read_bytes() == written
    flip(folder / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"no whole checkpoint.*model: model.safetensors does not hold"):
        train_or_resume(ascent(folder, count, save_strategy="no", **ADAMW), resume=True)
    train_or_resume(ascent(folder, count, save_strategy="no", overwrite=True, **ADAMW), resume=True)
    assert count.steps == [1, 2, 3, 4, 5, 6]


def test_a_run_resumed_from_a_named_checkpoint_gets_a_new_final_model(tmp_path):
    first = ascent(tmp_path, **ADAMW)
    first.train()
    save_finished(first, None, tmp_path / "model")
    with pytest.raises(ValueError, match=r"`resume_from_checkpoint=.*checkpoint-5.` cannot be used"):
        train_or_resume(ascent(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-5")), resume=True)
    other = ascent(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-4"), max_steps=8, **ADAMW)
    train_or_resume(other, resume=True)
    assert changed(state(first.model), state(other.model))
    for folder in (tmp_path / "model", tmp_path):  # beside its checkpoints, or around them as a retrained one
        save_finished(other, None, folder)
        assert not changed(state(other.model), state(type(other.model).from_pretrained(folder)))
    again = ascent(tmp_path, overwrite=True)
    again.train()
    save_finished(again, None, tmp_path)
    assert not changed(state(again.model), state(type(other.model).from_pretrained(tmp_path)))


def test_resume_starts_from_the_beginning_if_there_is_nothing_to_resume_from(tmp_path, three_checkpoints, capsys):
    trainer = ascent(tmp_path / "run", **ADAMW)
    train_or_resume(trainer, resume=True)
    assert f"Nothing to resume from in {tmp_path / 'run'} yet" in capsys.readouterr().out
    assert not changed(three_checkpoints[1], state(trainer.model))


def test_seconds_count_both_parts_of_a_resumed_run(tmp_path):
    with pytest.raises(Killed):
        ascent(tmp_path, KillAt(5)).train()
    before = read_state(tmp_path / "checkpoint-4")["seconds"]
    resumed = ascent(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    own = read_state(tmp_path / "checkpoint-6")["seconds"] - before
    assert resumed.seconds > before + own > before > 0


# --- other folders ----------------------------------------------------------------------------------------------------


def test_resuming_from_another_folder_needs_overwrite_and_deletes_old_checkpoints(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    best = {
        "eval_strategy": "steps", "eval_steps": 2, "trust_region": 0.02, "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": True, "eval_dataset": class_split("vit").forget,
    }  # fmt: skip
    ascent(here, **best, learning_rate=1e-2).train()
    whole = ascent(there, **best)
    whole.train()
    assert whole.state.best_global_step == 2
    with pytest.raises(ValueError, match="already holds"):
        ascent(here, **best).train(resume_from_checkpoint=str(there / "checkpoint-4"))
    again = ascent(here, **best, overwrite=True)
    again.train(resume_from_checkpoint=str(there / "checkpoint-4"))
    assert again.state.best_model_checkpoint == str(there / "checkpoint-2")
    assert not changed(state(whole.model), state(again.model))
    assert sorted(p.name for p in here.iterdir()) == ["checkpoint-6"]
    assert read_state(here / "checkpoint-6")["contents"] == whole.contents


def test_the_same_command_resumes_a_run_that_began_in_another_folder(tmp_path):
    killed(tmp_path / "there")
    start = str(tmp_path / "there" / "checkpoint-2")
    with pytest.raises(Killed):
        train_or_resume(ascent(tmp_path / "here", KillAt(5), resume_from_checkpoint=start), resume=True)
    assert [p.name for p in (tmp_path / "here").glob("checkpoint-*")] == ["checkpoint-4"]
    again = ascent(tmp_path / "here", resume_from_checkpoint=start)
    train_or_resume(again, resume=True)
    whole = ascent(tmp_path / "whole")
    whole.train()
    assert not changed(state(whole.model), state(again.model))

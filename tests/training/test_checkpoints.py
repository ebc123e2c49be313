"""Damage to a checkpoint is found before the checkpoint is used; only whole ones are resumed from."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from hf_unlearn import JiT
from hf_unlearn.training.checkpoints import (
    chosen_checkpoint,
    clean_output_folder,
    find_damage,
    last_checkpoint,
    read_state,
    seal_checkpoint,
)
from hf_unlearn.training.resuming import save_finished
from tests.support.models import changed, state
from tests.support.runs import KillAt, Killed, trainer_for
from tests.training.support import ADAMW, Count, ascent, cut, evaluated, flip, killed, make_trainer, names


def test_a_checkpoint_holds_what_it_says_and_no_pickle_of_ours(three_checkpoints):
    folder = three_checkpoints[0] / "checkpoint-4"
    sealed = read_state(folder)
    assert set(sealed["files"]) == set(names(folder)) - {"unlearning_state.json"}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(sealed["files"])
    for name in sealed["files"]:
        assert name.endswith((".safetensors", ".json", ".pt", ".pth"))
        if name.endswith((".pt", ".pth")):
            with safe_globals():
                torch.load(folder / name, weights_only=True)
    assert not find_damage(folder)
    assert names(three_checkpoints[0]) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("spoil", [cut, flip, Path.unlink])
def test_damage_to_any_file_is_found_and_named_and_an_older_checkpoint_used(tmp_path, three_checkpoints, spoil, caplog):
    files = names(three_checkpoints[0] / "checkpoint-6")
    assert len(files) >= 8
    for name in files:
        folder = tmp_path / name
        shutil.copytree(three_checkpoints[0], folder)
        spoil(folder / "checkpoint-6" / name)
        caplog.clear()
        assert last_checkpoint(folder) == folder / "checkpoint-4"
        assert str(folder / "checkpoint-6") in caplog.text
        assert name in caplog.text
        with pytest.raises(
            ValueError, match=rf"checkpoint-6'` cannot be used: .*{name}.*good one before it is .*checkpoint-4"
        ):
            chosen_checkpoint(str(folder / "checkpoint-6"), str(folder))
        for step in (2, 4):
            spoil(folder / f"checkpoint-{step}" / "model.safetensors")
        with pytest.raises(ValueError, match=r"no whole checkpoint.*checkpoint-6.*checkpoint-4.*`overwrite=True`"):
            last_checkpoint(folder)
        with pytest.raises(ValueError, match="No good one before it"):
            chosen_checkpoint(str(folder / "checkpoint-6"), str(folder))


def test_a_run_resumes_from_the_last_good_checkpoint_and_replaces_the_damaged_one(tmp_path, three_checkpoints, caplog):
    shutil.copytree(three_checkpoints[0], tmp_path / "run")
    flip(tmp_path / "run" / "checkpoint-6" / "optimizer.pt")
    count = Count()
    resumed = ascent(tmp_path / "run", count, **ADAMW)
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is passed over: optimizer.pt does not hold" in caplog.text
    assert count.steps == [5, 6]
    assert not changed(three_checkpoints[1], state(resumed.model))
    assert not find_damage(tmp_path / "run" / "checkpoint-6")
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_a_sealed_checkpoint_in_the_staging_folder_is_used(tmp_path, three_checkpoints):
    shutil.copytree(three_checkpoints[0] / "checkpoint-4", tmp_path / "_partial" / "checkpoint-4")
    shutil.copytree(three_checkpoints[0] / "checkpoint-6", tmp_path / "_partial" / "checkpoint-6")
    (tmp_path / "_partial" / "checkpoint-6" / "unlearning_state.json").unlink()  # killed before
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not find_damage(tmp_path / "checkpoint-4")


def test_what_another_trainer_wrote_is_not_resumed_from(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint-5'` cannot be used: it has no unlearning_state.json"):
        ascent(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    with pytest.raises(ValueError, match="there is no such folder"):
        ascent(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_a_damaged_best_checkpoint_is_not_loaded(tmp_path):
    class Spoil(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 6:
                flip(tmp_path / "checkpoint-2" / "model.safetensors")

    trainer = evaluated(tmp_path, Spoil(), load_best_model_at_end=True)
    with pytest.raises(ValueError, match=r"best checkpoint.*checkpoint-2.*model.safetensors does not hold"):
        trainer.train()
    last = evaluated(tmp_path)
    last.train(resume_from_checkpoint=True)  # without that argument, as the message says
    assert last.outcome.steps == 6


def test_a_half_written_checkpoint_is_not_used(tmp_path):
    def trainer(*callbacks):
        return trainer_for(
            "vit",
            tmp_path,
            JiT(num_perturbations=2),
            callbacks=list(callbacks),
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
        )

    with pytest.raises(Killed):
        trainer(KillAt(5)).train()
    (tmp_path / "checkpoint-4" / "unlearning_state.json").unlink()
    resumed = trainer()
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    resumed.add_callback(Count())
    resumed.train(resume_from_checkpoint=True)
    assert steps == [3, 4, 5, 6]


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(ValueError, match="`resume_from_checkpoint`: no whole checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-5").mkdir()  # a save that was cut off
    with pytest.raises(ValueError, match="`resume_from_checkpoint`: no whole checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_models_alone_cannot_be_resumed_from(tmp_path):
    ascent(tmp_path, save_only_model=True).train()
    assert "optimizer.pt" not in names(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"no whole checkpoint.*`save_only_model=True` left out the optimizer"):
        ascent(tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"checkpoint-2'` cannot be used: `save_only_model=True`"):
        ascent(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    other = tmp_path / "other"
    with pytest.raises(Killed):
        ascent(other, KillAt(3)).train()
    with pytest.raises(Killed):
        ascent(other, KillAt(5), save_only_model=True).train(resume_from_checkpoint=True)
    assert last_checkpoint(other) == other / "checkpoint-2"


def test_overwriting_deletes_the_finished_marker_of_the_earlier_run(tmp_path):
    (tmp_path / "model").mkdir()
    before = ascent(tmp_path)
    before.train()
    save_finished(before, None, tmp_path / "model")
    assert last_checkpoint(tmp_path) == tmp_path / "model"
    with pytest.raises(Killed):
        ascent(tmp_path, KillAt(1), overwrite=True).train()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        last_checkpoint(tmp_path)
    assert (tmp_path / "model" / "model.safetensors").is_file()  # until there is another


def test_overwriting_deletes_what_retrained_models_of_the_earlier_run_could_be_resumed_from(tmp_path):
    killed(tmp_path / "earlier")
    (tmp_path / "model").mkdir()
    ended = ascent(tmp_path)
    ended.train()
    save_finished(ended, None, tmp_path / "model")
    for name in ("retrained", "retrained-2", "retrained-mine"):
        shutil.copytree(tmp_path / "earlier" / "checkpoint-2", tmp_path / name / "checkpoint-2")
        shutil.copy(tmp_path / "model.finished.json", tmp_path / f"{name}.finished.json")
    clean_output_folder(tmp_path, tmp_path / "model", overwrite=True)  # a resumed run keeps them
    assert len([*tmp_path.glob("retrained*/checkpoint-2")]) == len([*tmp_path.glob("retrained*.json")]) == 3
    clean_output_folder(tmp_path, None, overwrite=True)
    assert [p.parent.name for p in tmp_path.glob("retrained*/checkpoint-2")] == ["retrained-mine"]
    assert [p.name for p in tmp_path.glob("retrained*.json")] == ["retrained-mine.finished.json"]


def test_a_checkpoint_of_an_earlier_version_can_be_resumed_from(tmp_path):
    """An earlier version sealed fewer entries."""
    killed(tmp_path)
    place = tmp_path / "checkpoint-2"
    saved = read_state(place)
    kept = {k: v for k, v in saved.items() if k not in ("files", "contents", "adapters")}
    del kept["settings"]["adam_beta1"]
    seal_checkpoint(place, kept)
    again = ascent(tmp_path)
    again.train(resume_from_checkpoint=True)
    whole = ascent(tmp_path / "whole")
    whole.train()
    assert not changed(state(whole.model), state(again.model))

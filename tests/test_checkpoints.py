"""A checkpoint is whole or not there, what is damaged is found before it is used, and a resumed run is the same run."""

import os
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from hf_unlearn import FineTune, GradientAscent, GradientDifference
from hf_unlearn.training.checkpoints import chosen_checkpoint, find_damage, last_checkpoint, read_state
from hf_unlearn.training.resuming import save_finished, train_or_resume
from hf_unlearn.utils.files import WriteError
from tests.support.data import class_split, data_for, processing_class
from tests.support.fresh_processes import exit_codes, start
from tests.support.models import build, changed, state, trained
from tests.support.runs import KillAt, Killed, trainer_for

EVERY = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
ADAMW = {"trust_region": 0.0, "learning_rate": 1e-3}


def ascent(folder, *callbacks, arch="vit", **changes):
    """Six steps, two an epoch."""
    return trainer_for(arch, folder, GradientAscent(), callbacks=list(callbacks), **{**EVERY, **changes})


def evaluated(folder, *callbacks, arch="vit", **changes):
    """It is looked at on the forget set every other step, so that each evaluation is worse than the one before."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "trust_region": 0.02, "metric_for_best_model": "eval_loss"}
    return ascent(folder, *callbacks, arch=arch, eval_dataset=class_split(arch).forget, **{**settings, **changes})


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


class Count(TrainerCallback):
    """The steps that are taken."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Checkpoints 2, 4 and 6 of a run with an optimiser that has a state, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("three")
    trainer = ascent(folder, **ADAMW)
    trainer.train()
    return folder, state(trainer.model)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_it_says_and_no_pickle_of_ours(three):
    folder = three[0] / "checkpoint-4"
    sealed = read_state(folder)
    assert set(sealed["files"]) == set(names(folder)) - {"unlearning_state.json"}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(sealed["files"])
    for name in sealed["files"]:
        assert name.endswith((".safetensors", ".json", ".pt", ".pth"))
        if name.endswith((".pt", ".pth")):
            with safe_globals():
                torch.load(folder / name, weights_only=True)
    assert not find_damage(folder)
    assert names(three[0]) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [cut, flip, Path.unlink])
def test_damage_to_any_file_is_found_named_and_passed_over(tmp_path, three, spoil, caplog):
    files = names(three[0] / "checkpoint-6")
    assert len(files) >= 8
    for name in files:
        folder = tmp_path / name
        shutil.copytree(three[0], folder)
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


def test_a_run_goes_on_from_the_last_good_checkpoint_and_replaces_the_damaged_one(tmp_path, three, caplog):
    shutil.copytree(three[0], tmp_path / "run")
    flip(tmp_path / "run" / "checkpoint-6" / "optimizer.pt")
    count = Count()
    resumed = ascent(tmp_path / "run", count, **ADAMW)
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is passed over: optimizer.pt does not hold" in caplog.text
    assert count.steps == [5, 6]
    assert not changed(three[1], state(resumed.model))
    assert not find_damage(tmp_path / "run" / "checkpoint-6")
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_a_sealed_checkpoint_that_was_not_yet_in_its_place_is_whole(tmp_path, three):
    shutil.copytree(three[0] / "checkpoint-4", tmp_path / "_partial" / "checkpoint-4")
    shutil.copytree(three[0] / "checkpoint-6", tmp_path / "_partial" / "checkpoint-6")
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


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class DiesWriting(GradientAscent):
    """The process is killed when half a checkpoint is written, at the `last` one."""

    last: int = 0

    def save_checkpoint(self, folder):
        self.last -= 1
        if self.last == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def die_writing(folder, settings):
    trainer_for("vit", folder, DiesWriting(last=3), **settings).train()


@pytest.mark.parametrize("limit", [None, 1])
def test_killed_while_it_writes_a_checkpoint_a_run_still_has_the_one_before(tmp_path, three, limit):
    settings = {**EVERY, **ADAMW, "save_total_limit": limit}
    assert exit_codes([start(die_writing, tmp_path, settings)]) == [-signal.SIGKILL]
    whole = ["checkpoint-2", "checkpoint-4"] if limit is None else ["checkpoint-4"]
    assert names(tmp_path) == ["_partial", *whole]
    assert "model.safetensors" in names(tmp_path / "_partial" / "checkpoint-6")
    count = Count()
    resumed = trainer_for("vit", tmp_path, DiesWriting(), callbacks=[count], **settings)
    resumed.train(resume_from_checkpoint=True)
    assert count.steps == [5, 6]
    assert not changed(three[1], state(resumed.model))
    assert names(tmp_path) == ([*whole, "checkpoint-6"] if limit is None else ["checkpoint-6"])


def test_the_limit_never_takes_the_checkpoint_just_written_nor_the_best(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append({n: find_damage(tmp_path / n) for n in names(tmp_path)})

    evaluated(tmp_path, Watch(), save_steps=1, eval_steps=1, save_total_limit=1, load_best_model_at_end=True).train()
    assert seen[0] == {"checkpoint-1": ""}
    assert seen[1:] == [{"checkpoint-1": "", f"checkpoint-{n}": ""} for n in range(2, 7)]
    # Where newer ones are damaged, the newest by number is not the one to keep.
    other = tmp_path / "other"
    with pytest.raises(Killed):
        ascent(other, KillAt(5), save_steps=1).train()
    for step in (3, 4):
        flip(other / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(Killed):
        ascent(other, KillAt(4), save_steps=1, save_total_limit=1).train(resume_from_checkpoint=True)
    assert names(other) == ["checkpoint-3"]
    assert not find_damage(other / "checkpoint-3")


@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MB of its own, or, where none may be mounted, None."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False, capture_output=True
    )
    yield tmp_path if mounted.returncode == 0 else None
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def fill(folder, left):
    """Leave `left` bytes of the disk free; returns the file that fills it."""
    with (folder / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(folder).free - left))
    return folder / "filler"


def test_a_full_disk_ends_the_run_with_a_clear_error_and_leaves_the_checkpoint_before(disk, three):
    if disk is None:
        pytest.skip("no file system may be mounted here")

    class Fill(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 4:
                fill(disk, 100_000)

    trainer = ascent(disk / "run", Fill(), **ADAMW)
    free = r"(9\d|100)"
    with pytest.raises(
        WriteError, match=rf"checkpoint-6 could not be written to {disk}/run: .* about \d+ kB, {free} kB were free"
    ):
        trainer.train()
    assert names(disk / "run") == ["checkpoint-2", "checkpoint-4"]
    assert not any(find_damage(disk / "run" / n) for n in names(disk / "run"))
    assert not changed(three[1], state(trainer.model)), "the model in memory"
    (disk / "filler").unlink()
    trainer.train(resume_from_checkpoint=True)
    assert not changed(three[1], state(trainer.model))
    assert names(disk / "run") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def go_on_with_small_files(folder):
    largest = max(p.stat().st_size for p in (folder / "checkpoint-2").iterdir())
    trained("vit")  # it is kept for the other tests, in a file as large
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
    with pytest.raises(WriteError, match=r"checkpoint-4 could not be written to .*File too large"):
        ascent(folder).train(resume_from_checkpoint=True)
    assert names(folder) == ["checkpoint-2"]


def test_files_that_may_not_grow_end_the_run_in_the_same_way(tmp_path):
    with pytest.raises(Killed):
        ascent(tmp_path, KillAt(3)).train()
    log = tmp_path.with_suffix(".log")
    assert exit_codes([start(go_on_with_small_files, tmp_path, log=log)]) == [0], log.read_text()


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_takes_no_further_step_and_may_be_asked_for_more(tmp_path, three):
    shutil.copytree(three[0], tmp_path / "run")
    count = Count()
    again = ascent(tmp_path / "run", count, **ADAMW)
    again.train(resume_from_checkpoint=True)  # six steps of two an epoch: the base class would take one more
    assert count.steps == []
    assert again.state.global_step == again.outcome.steps == 6
    assert not changed(three[1], state(again.model))
    more = ascent(tmp_path / "run", count, **ADAMW, max_steps=8)
    more.train(resume_from_checkpoint=True)
    assert count.steps == [7, 8]


def test_a_run_that_a_callback_ended_stays_ended(tmp_path):
    stop = {"eval_steps": 2, "load_best_model_at_end": True, "max_steps": 20}
    early = evaluated(tmp_path, EarlyStoppingCallback(2), **stop)
    early.train()
    assert early.state.global_step == 6
    count = Count()
    again = evaluated(tmp_path, count, EarlyStoppingCallback(2), **stop)
    again.train(resume_from_checkpoint=True)
    assert count.steps == []
    assert not changed(state(early.model), state(again.model))
    assert again.outcome == early.outcome


@pytest.mark.parametrize("name", ["steps", "best", "epoch"])
def test_evaluation_best_model_and_resume_together(tmp_path, name):
    """Dropout draws from the global generator, as every evaluation does once."""
    strategy = {
        "save_strategy": name,
        "save_steps": 2,
        "eval_strategy": "epoch" if name == "epoch" else "steps",
        "eval_steps": 2,
    }

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit", tmp_path / folder, FineTune(), model=trained("vit", 0.1), callbacks=list(callbacks), **ADAMW,
            eval_dataset=data_for("vit", 32, 7), load_best_model_at_end=True, metric_for_best_model="eval_loss",
            max_steps=14, weight_average=0.5, check_steps=4, **strategy,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(9))
    (tmp_path / "killed").rename(tmp_path / "moved")
    resumed = run("moved", resume=True)
    assert not changed(state(whole.model), state(resumed.model))
    assert whole.state.best_global_step == resumed.state.best_global_step
    assert (
        whole.state.best_metric == resumed.state.best_metric == pytest.approx(whole.evaluate()["eval_loss"], rel=1e-6)
    )
    assert resumed.outcome == whole.outcome


@pytest.mark.parametrize(
    "arch", ["vit", "swin", "deit", "dinov2", "convnext", "resnet", "bert", "distilbert", "roberta"]
)
@pytest.mark.parametrize("average", [0.0, 0.5])
def test_the_best_model_of_every_architecture_is_the_checkpoint(tmp_path, arch, average):
    settings = {"load_best_model_at_end": True, "weight_average": average, "max_steps": 4, "update": "all"}
    taught = trained if arch not in ("deit", "dinov2") else build

    def run(*callbacks, resume=None):
        trainer = evaluated(tmp_path, *callbacks, arch=arch, model=taught(arch), **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    with pytest.raises(Killed):
        run(KillAt(3))
    trainer = run(resume=True)
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert trainer.state.best_global_step == 2
    assert losses[0] == trainer.state.best_metric < losses[1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-6)
    if not average:
        saved = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2")
        assert not changed(state(saved), state(trainer.model))


def test_the_best_and_the_last_adapter_are_restored(tmp_path):
    from peft import LoraConfig, get_peft_model

    def run(folder, *callbacks, resume=None, best=False):
        torch.manual_seed(5)
        model = get_peft_model(
            trained("vit"), LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
        )
        trainer = evaluated(
            tmp_path / folder, *callbacks, model=model, update="lora", load_best_model_at_end=best, weight_average=0.5
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(5))
    assert not changed(state(whole.model), state(run("killed", resume=True).model))
    best = run("best", best=True)
    losses = [e["eval_loss"] for e in best.state.log_history if "eval_loss" in e]
    assert best.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6) != pytest.approx(losses[-1], rel=1e-6)


def test_models_alone_cannot_be_resumed_from(tmp_path):
    ascent(tmp_path, save_only_model=True).train()
    assert "optimizer.pt" not in names(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"no whole checkpoint.*`save_only_model=True` left out the optimiser"):
        ascent(tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"checkpoint-2'` cannot be used: `save_only_model=True`"):
        ascent(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    other = tmp_path / "other"
    with pytest.raises(Killed):
        ascent(other, KillAt(3)).train()
    with pytest.raises(Killed):
        ascent(other, KillAt(5), save_only_model=True).train(resume_from_checkpoint=True)
    assert last_checkpoint(other) == other / "checkpoint-2"


def test_a_run_that_overwrites_takes_the_claims_of_the_one_before_away(tmp_path):
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


def test_a_finished_run_is_gone_on_with_after_its_training(tmp_path, three, caplog):
    folder = tmp_path / "run"
    first = ascent(folder, save_strategy="no", **ADAMW)
    first.train()
    save_finished(first, processing_class("vit"), folder / "model")
    assert names(folder) == ["model", "model.finished.json"]
    count = Count()
    again = ascent(folder, count, save_strategy="no", **ADAMW)
    train_or_resume(again, resume=True)
    assert count.steps == []
    assert not changed(three[1], state(again.model))
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


def test_a_run_that_goes_on_from_a_named_checkpoint_ends_anew(tmp_path):
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


def test_at_the_command_line_nothing_to_resume_from_is_a_beginning(tmp_path, three, capsys):
    trainer = ascent(tmp_path / "run", **ADAMW)
    train_or_resume(trainer, resume=True)
    assert f"Nothing to resume from in {tmp_path / 'run'} yet" in capsys.readouterr().out
    assert not changed(three[1], state(trainer.model))


def test_a_run_of_another_method_or_other_rows_is_not_resumed(tmp_path, three, caplog):
    shutil.copytree(three[0], tmp_path / "run")
    with pytest.raises(ValueError, match="began with the method gradient_ascent, and now gradient_difference is given"):
        trainer_for("vit", tmp_path / "run", GradientDifference(), **EVERY, **ADAMW).train(resume_from_checkpoint=True)
    fewer = class_split("vit", 32)
    with pytest.raises(ValueError, match=r"began with numbers of rows \{'forget': 16, 'retain': 48\}, and now"):
        ascent(tmp_path / "run", split=fewer, **ADAMW).train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    ascent(tmp_path / "run", **{**ADAMW, "learning_rate": 3e-4}).train(resume_from_checkpoint=True)
    assert "began with: learning_rate (0.001 → 0.0003). The optimiser" in caplog.text


def test_seconds_are_those_of_both_parts(tmp_path):
    with pytest.raises(Killed):
        ascent(tmp_path, KillAt(5)).train()
    before = read_state(tmp_path / "checkpoint-4")["seconds"]
    resumed = ascent(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    own = read_state(tmp_path / "checkpoint-6")["seconds"] - before
    assert resumed.seconds > before + own > before > 0


# --- being asked to end -----------------------------------------------------------------------------------------------


class Signal(TrainerCallback):
    """Signals in the middle of a step."""

    def __init__(self, step, *signals):
        self.step, self.signals = step, signals

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for number in self.signals:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGTERM] * 2, [signal.SIGINT] * 2], ids=lambda s: f"{len(s)}x{s[0]}"
)
def test_sigterm_is_the_first_ctrl_c_and_one_press_may_arrive_twice(tmp_path, three, signals):
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="Resume from the checkpoint in") as stop:
        ascent(tmp_path, Signal(3, *signals), **ADAMW).train()
    assert stop.value.signum == signals[0]
    assert signal.getsignal(signal.SIGTERM) is former
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    resumed = ascent(tmp_path, **ADAMW)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(three[1], state(resumed.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluate", "save"),
    [("steps", "best"), ("epoch", "best"), ("epoch", "epoch"), ("steps", "no"), ("epoch", "steps")],
)
def test_an_interrupt_at_any_step_changes_nothing(tmp_path, evaluate, save):
    """Inside an epoch (of two steps), at its end, at a look, at the last step; with a best model, an average and dropout."""
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

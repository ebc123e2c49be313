"""Checkpoints are written whole or not at all, also on a full disk, and load to the saved weights."""

import os
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_unlearn import FineTune, ForgetRequest, GradientAscent, JiT, UnlearningTrainer
from hf_unlearn.models.prediction import predict
from hf_unlearn.training.checkpoints import find_damage
from hf_unlearn.utils.files import WriteError
from tests.support.data import class_split, data_for, text_data, tokenizer
from tests.support.fresh_processes import exit_codes, start
from tests.support.models import build, changed, state, trained
from tests.support.runs import KillAt, Killed, arguments, trainer_for, whole_and_resumed
from tests.support.tables import slow
from tests.training.support import ADAMW, EVERY, Count, ascent, evaluated, flip, make_trainer, names

pytestmark = pytest.mark.slow  # together too long for the quick tests

# --- writing ----------------------------------------------------------------------------------------------------------


def test_saved_model_loads_with_from_pretrained_to_the_same_weights(tmp_path):
    for arch in ("vit", "swin", "bert"):
        trainer = trainer_for(arch, tmp_path / arch, JiT(num_perturbations=2))
        trainer.train()
        trainer.save_model(str(tmp_path / arch / "saved"))
        assert not changed(state(trainer.model), state(type(trainer.model).from_pretrained(tmp_path / arch / "saved")))


def test_checkpoints_hold_no_row_of_the_forget_set(tmp_path):
    data = text_data(40).add_column("user", [f"secret-{i}" for i in range(40)])
    split = ForgetRequest(column="user", values=["secret-7", "secret-11"]).split(data)
    make_trainer(
        tmp_path,
        arch="bert",
        model=trained("bert"),
        forget_dataset=split.forget,
        retain_dataset=split.retain,
        args=arguments(tmp_path, save_strategy="steps", save_steps=1, forget_kind="samples"),
    ).train()
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert any(f.suffix == ".safetensors" for f in files)
    for f in files:
        content = f.read_bytes()
        assert b"secret-" not in content, f.name
        assert not any(text.encode() in content for text in split.forget["text"]), f.name


@dataclass(kw_only=True)
class DiesWriting(GradientAscent):
    """Kills the process in the middle of writing its checkpoint number `last`."""

    last: int = 0

    def save_checkpoint(self, folder):
        self.last -= 1
        if self.last == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def die_writing(folder, settings):
    trainer_for("vit", folder, DiesWriting(last=3), **settings).train()


@pytest.mark.parametrize("limit", [None, 1])
def test_killed_while_it_writes_a_checkpoint_a_run_still_has_the_one_before(tmp_path, three_checkpoints, limit):
    settings = {**EVERY, **ADAMW, "save_total_limit": limit}
    assert exit_codes([start(die_writing, tmp_path, settings)]) == [-signal.SIGKILL]
    whole = ["checkpoint-2", "checkpoint-4"] if limit is None else ["checkpoint-4"]
    assert names(tmp_path) == ["_partial", *whole]
    assert "model.safetensors" in names(tmp_path / "_partial" / "checkpoint-6")
    count = Count()
    resumed = trainer_for("vit", tmp_path, DiesWriting(), callbacks=[count], **settings)
    resumed.train(resume_from_checkpoint=True)
    assert count.steps == [5, 6]
    assert not changed(three_checkpoints[1], state(resumed.model))
    assert names(tmp_path) == ([*whole, "checkpoint-6"] if limit is None else ["checkpoint-6"])


def test_the_limit_never_deletes_the_newest_or_the_best_checkpoint(tmp_path):
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
    """A separate file system of 2 MB; None if the test may not mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False, capture_output=True
    )
    yield tmp_path if mounted.returncode == 0 else None
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def fill(folder, left):
    """Leave `left` bytes of the disk free, and return the file that fills it."""
    with (folder / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(folder).free - left))
    return folder / "filler"


def test_a_full_disk_ends_the_run_with_a_clear_error_and_leaves_the_checkpoint_before(disk, three_checkpoints):
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
    assert not changed(three_checkpoints[1], state(trainer.model)), "the model in memory"
    (disk / "filler").unlink()
    trainer.train(resume_from_checkpoint=True)
    assert not changed(three_checkpoints[1], state(trainer.model))
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


# --- the best checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["vit", "swin", "bert"])
def test_best_model_is_restored_exactly(tmp_path, arch):
    split = class_split(arch)
    trainer = UnlearningTrainer(
        trained(arch),
        arguments(
            tmp_path,
            max_steps=4,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            update="all",
            trust_region=0.05,
        ),
        GradientAscent(),
        split.forget,
        split.retain,
        eval_dataset=split.forget,
        processing_class=tokenizer() if arch == "bert" else None,
    )
    trainer.train()
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(set(losses)) > 1
    assert trainer.state.best_metric == min(losses) < losses[-1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    logits, original = (predict(m, split.forget, trainer.processor)[0] for m in (trainer.model, trained(arch)))
    moved = 0.5 * (logits.softmax(-1) - original.softmax(-1)).abs().sum(-1).mean().item()
    assert trainer.outcome.outputs_moved == pytest.approx(moved, rel=1e-4), "the outcome speaks of another model"


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


def test_a_measure_of_the_best_model_that_nothing_gives_is_named_with_those_there_are(tmp_path):
    trainer = trainer_for(
        "vit", tmp_path, FineTune(), eval_dataset=data_for("vit", 8, 7), load_best_model_at_end=True, max_steps=1,
        metric_for_best_model="accuracy", eval_strategy="steps", save_strategy="steps", eval_steps=1, save_steps=1,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`metric_for_best_model='accuracy'` is not among .*: eval_loss, .*`compute_metrics`"
    ):
        trainer.train()


@pytest.mark.parametrize(
    "arch", ["vit", "resnet", "bert", *slow("swin", "deit", "dinov2", "convnext", "distilbert", "roberta")]
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

    whole, resumed = whole_and_resumed(run, 5)
    assert not changed(state(whole.model), state(resumed.model))
    best = run("best", best=True)
    losses = [e["eval_loss"] for e in best.state.log_history if "eval_loss" in e]
    assert best.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6) != pytest.approx(losses[-1], rel=1e-6)


# --- ended runs -------------------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_takes_no_further_step_and_may_be_asked_for_more(tmp_path, three_checkpoints):
    shutil.copytree(three_checkpoints[0], tmp_path / "run")
    count = Count()
    again = ascent(tmp_path / "run", count, **ADAMW)
    again.train(resume_from_checkpoint=True)  # six steps of two an epoch: the base class would take one more
    assert count.steps == []
    assert again.state.global_step == again.outcome.steps == 6
    assert not changed(three_checkpoints[1], state(again.model))
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


@pytest.mark.parametrize("best", [False, True], ids=["last", "best"])
def test_a_resumed_run_is_stopped_early_where_the_undisturbed_one_is(tmp_path, best):
    """The model gets worse with every step, so a patience of three ends after four evaluations."""

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit", tmp_path / folder, GradientAscent(), callbacks=[EarlyStoppingCallback(3), *callbacks], save_steps=1,
            save_strategy="steps", eval_strategy="steps", eval_steps=1, max_steps=10, load_best_model_at_end=best,
            eval_dataset=data_for("vit", 32, 3), metric_for_best_model="eval_loss", trust_region=0.05,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, resumed = whole_and_resumed(run, 3)
    assert whole.outcome.steps == 4
    assert resumed.outcome == whole.outcome
    assert not changed(state(whole.model), state(resumed.model))


class Counting(TrainerCallback, ExportableState):
    """Counts steps. Its constructor needs more than its saved state."""

    def __init__(self, name):
        self.name, self.steps = name, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


def test_callbacks_stay_the_same_objects_and_get_their_state_back(tmp_path):
    first = [Counting("a"), Counting("b"), KillAt(5)]
    with pytest.raises(Killed):
        ascent(tmp_path, *first).train()
    mine = [Counting("a"), Counting("b")]
    again = ascent(tmp_path, *mine)
    order = [type(c) for c in again.callback_handler.callbacks]
    again.train(resume_from_checkpoint=True)
    assert [c.steps for c in mine] == [6, 6]
    assert [type(c) for c in again.callback_handler.callbacks] == order

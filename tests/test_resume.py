"""A run goes on only with what it began with, and no run touches what is not its own."""

import datetime
import decimal
import json
import shutil
import threading

import datasets
import pytest
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_unlearn import FineTune, ForgetRequest, GradientAscent
from hf_unlearn.data.overlap import check_overlap, fingerprint
from hf_unlearn.data.sampling import draw
from hf_unlearn.pipeline.prepare import check_folders
from hf_unlearn.training.checkpoints import read_state, seal_checkpoint
from hf_unlearn.training.resuming import save_finished, train_or_resume
from tests.support.data import class_split, data_for, processing_class, text_data
from tests.support.models import build, changed, state, trained
from tests.support.runs import KillAt, Killed, trainer_for

EVERY = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


def ascent(folder, *callbacks, **changes):
    return trainer_for("vit", folder, GradientAscent(), callbacks=list(callbacks), **{**EVERY, **changes})


def drawn(seed):
    return ForgetRequest(fraction=0.25, seed=seed).split(data_for("vit", 64))


def killed(folder, step=3, **changes):
    with pytest.raises(Killed):
        ascent(folder, KillAt(step), **changes).train()


def finished(folder, **changes):
    trainer = ascent(folder, **changes)
    trainer.train()
    save_finished(trainer, processing_class("vit"), folder / "model")
    return trainer


# --- rows -------------------------------------------------------------------------------------------------------------


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


def test_a_fingerprint_is_of_the_rows_and_of_nothing_else(tmp_path):
    rows = text_data(20)
    first = fingerprint(rows)
    rows.save_to_disk(tmp_path / "rows")
    same = (
        datasets.load_from_disk(tmp_path / "rows"),
        datasets.concatenate_datasets([rows.select(range(7)), rows.select(range(7, 20))]),
        datasets.concatenate_datasets([text_data(5), rows]).select(range(5, 25)),
    )
    assert [fingerprint(other) for other in same] == [first] * 3
    edited = rows.map(lambda row, i: {"text": row["text"] + ("." if i == 19 else "")}, with_indices=True)
    others = (rows.select(range(19)), rows.select([*range(19), 18]), edited, rows.rename_column("text", "sentence"))
    assert len({first, *map(fingerprint, others)}) == 5
    assert fingerprint(rows.to_iterable_dataset()) is None
    assert fingerprint(data_for("vit", 8)) == fingerprint(data_for("vit", 8)) != fingerprint(data_for("vit", 8, seed=1))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_relabelled_with_other_settings(tmp_path):
    finished(tmp_path, max_steps=2)
    for changes in ({"max_steps": 4}, {"trust_region": 0.02}):
        with pytest.raises(ValueError, match=f"the run has ended, with other settings.*{next(iter(changes))}"):
            train_or_resume(ascent(tmp_path, **{"max_steps": 2, **changes}), resume=True)


def test_an_adapter_of_another_kind_is_not_gone_on_with(tmp_path):
    from peft import LoraConfig

    def config(alpha):
        return LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])

    killed(tmp_path, peft_config=config(8))
    with pytest.raises(ValueError, match="the adapters"):
        ascent(tmp_path, peft_config=config(64)).train(resume_from_checkpoint=True)
    ascent(tmp_path, peft_config=config(8)).train(resume_from_checkpoint=True)


def test_another_original_is_refused_where_the_method_needs_no_forget_set_too(tmp_path):
    with pytest.raises(Killed):
        trainer_for("vit", tmp_path, FineTune(), callbacks=[KillAt(3)], **EVERY).train()
    other = trainer_for("vit", tmp_path, FineTune(), model=build("vit"), **EVERY)
    with pytest.raises(ValueError, match="`model` is not the one that this run started from"):
        other.train(resume_from_checkpoint=True)


def test_settings_of_the_optimiser_are_told_when_they_differ(tmp_path, caplog):
    adamw = {"trust_region": 0.0, "learning_rate": 1e-3}
    killed(tmp_path, **adamw)
    ascent(tmp_path, **adamw, adam_beta1=0.5, warmup_steps=3).train(resume_from_checkpoint=True)
    assert "adam_beta1 (0.9 → 0.5)" in caplog.text
    assert "warmup_steps" in caplog.text


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["model", "retrained", "original-training", "checkpoint-500", "checkpoint-500/deeper", ""]
)
def test_a_run_does_not_write_to_the_place_of_its_original(tmp_path, place):
    original = tmp_path / "out" / place
    trained("vit").save_pretrained(original)
    with pytest.raises(ValueError, match="would overwrite the original"):
        check_folders(str(original), str(tmp_path / "out"), True)
    model = type(trained("vit")).from_pretrained(original)
    with pytest.raises(ValueError, match="would overwrite the original"):
        ascent(tmp_path / "out", model=model, overwrite=True).train()
    assert not changed(state(trained("vit")), state(type(model).from_pretrained(original)))


def test_an_original_elsewhere_in_the_folder_is_fine(tmp_path):
    trained("vit").save_pretrained(tmp_path / "original")
    check_folders(str(tmp_path / "original"), str(tmp_path), False)


def test_what_others_wrote_stays(tmp_path):
    """Checkpoints of another trainer, and files that only have the name of ours."""
    strange = tmp_path / "checkpoint-1"
    trained("vit").save_pretrained(strange)
    with pytest.raises(ValueError, match="holds checkpoint-1, which another trainer wrote"):
        ascent(tmp_path, overwrite=True).train()
    assert (strange / "model.safetensors").is_file()
    shutil.rmtree(strange)
    mine = [tmp_path / "job.finished.json", tmp_path / "model.finished.json"]
    for path in mine:
        path.write_text(json.dumps({"job": 7}))
    ascent(tmp_path, overwrite=True).train()
    assert all(json.loads(path.read_text()) == {"job": 7} for path in mine)


def test_a_run_that_goes_on_from_elsewhere_neither_mixes_nor_replaces(tmp_path):
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


# --- what data may be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2020, 1, 2, 3), datetime.date(2020, 1, 2), datetime.time(3, 4), datetime.timedelta(hours=5),
        decimal.Decimal("1.5"), b"bytes", True, 2.5, None, [1, 2], {"a": "b"}, [[1.5], []],
    ],
    ids=repr,
)  # fmt: skip
def test_rows_of_any_type_have_a_fingerprint_and_can_be_compared(value):
    rows = datasets.Dataset.from_dict({"when": [value, value, None], "n": [0, 1, 2]})
    assert fingerprint(rows) == fingerprint(rows.select(range(3))) != fingerprint(rows.select([0, 1, 1]))
    with pytest.raises(ValueError, match="overlap"):
        check_overlap(rows.select([0]), rows)


def test_the_order_of_rows_counts():
    rows = text_data(12)
    assert len({fingerprint(rows), fingerprint(rows.shuffle(seed=1)), fingerprint(rows.shuffle(seed=2))}) == 3
    assert fingerprint(rows.select(range(11, -1, -1))) == fingerprint(rows.select(range(11, -1, -1)))


def test_a_folder_of_images_may_be_moved_and_not_be_replaced(tmp_path):
    from PIL import Image

    def found(folder):
        paths = sorted(map(str, folder.glob("*.png")))
        return fingerprint(datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image()))

    (tmp_path / "a").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / "a" / f"{i}.png")
    first = found(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert found(tmp_path / "b") == first
    Image.effect_noise((8, 8), 50).save(tmp_path / "b" / "1.png")
    assert found(tmp_path / "b") != first


def test_a_stream_that_cannot_be_copied_is_looked_at_and_left_where_it_was():
    class Held:
        """As a connection or an open file."""

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, row):
            return row

    stream = text_data(8).to_iterable_dataset().map(Held())
    stream.set_epoch(3)
    assert [row["text"] for row in draw(stream, 4, 0)] == text_data(8)["text"][:4]
    assert stream.epoch == 3


# --- and still goes on ------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_says_less_is_gone_on_from(tmp_path):
    """As an earlier version wrote it."""
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


def test_a_run_from_elsewhere_is_gone_on_with_by_the_same_command(tmp_path):
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


class Counting(TrainerCallback, ExportableState):
    """Counts steps, and cannot be made anew from what it saves."""

    def __init__(self, name):
        self.name, self.steps = name, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


def test_callbacks_go_on_as_the_objects_that_they_are(tmp_path):
    first = [Counting("a"), Counting("b"), KillAt(5)]
    with pytest.raises(Killed):
        ascent(tmp_path, *first).train()
    mine = [Counting("a"), Counting("b")]
    again = ascent(tmp_path, *mine)
    order = [type(c) for c in again.callback_handler.callbacks]
    again.train(resume_from_checkpoint=True)
    assert [c.steps for c in mine] == [6, 6]
    assert [type(c) for c in again.callback_handler.callbacks] == order

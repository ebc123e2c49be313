"""A run goes on only with what it began with, and no run touches what is not its own."""

import json
import shutil

import datasets
import pytest
from conftest import (
    KillAt,
    Killed,
    build,
    changed,
    class_split,
    data_for,
    processing_class,
    state,
    text_data,
    trained,
    trainer_for,
)

from hf_unlearn import FineTune, ForgetRequest, GradientAscent
from hf_unlearn.checkpoints import read_state
from hf_unlearn.checks import check_folders
from hf_unlearn.overlap import fingerprint
from hf_unlearn.saving import go_on, keep_finished

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
    keep_finished(trainer, processing_class("vit"), folder / "model")
    return trainer


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_request_of_the_same_size_is_not_taken_for_another(tmp_path):
    killed(tmp_path / "killed", split=drawn(0))
    finished(tmp_path / "finished", split=drawn(0))
    assert len(drawn(0).forget) == len(drawn(1).forget)
    for folder in (tmp_path / "killed", tmp_path / "finished"):
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with pytest.raises(ValueError, match="other rows to forget or to keep, as many of them as now"):
            go_on(ascent(folder, split=drawn(1)), resume=True)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        go_on(ascent(folder, split=drawn(0)), resume=True)


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
            go_on(ascent(tmp_path, **{"max_steps": 2, **changes}), resume=True)


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

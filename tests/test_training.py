"""Saving a model: whole or not at all, and what was there is not lost; ordinary training; callbacks of a resumed run."""

import os

import pytest
import torch
from transformers import EarlyStoppingCallback

from hf_unlearn import GradientAscent, UnlearningArguments
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.prepare import load_model, prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.unlearn import retrain
from hf_unlearn.training.plain_training import train_classifier, warmup_steps
from tests.support.data import data_for, image_data, image_processor
from tests.support.models import build, changed, state
from tests.support.runs import KillAt, Killed, trainer_for


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_saved_model_replaces_a_former_one_whatever_a_killed_save_left_behind(tmp_path):
    model = build("vit")
    save_model(model, None, tmp_path / "model")
    for leftover in (".model-old", ".model-old-x", ".model-x"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "config.json").write_text("{}")
    before = files(tmp_path)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    save_model(model, None, tmp_path / "model")
    assert not changed(state(model), state(type(model).from_pretrained(tmp_path / "model")))
    assert files(tmp_path) == before


def test_a_save_that_fails_at_its_last_step_keeps_the_former_model(tmp_path, monkeypatch):
    model = build("vit")
    save_model(model, None, tmp_path / "model")
    rename = os.replace

    def fail_into_place(source, target):
        if str(target).endswith("/model") and "-old-" not in str(source):
            raise OSError("disk")
        rename(source, target)

    monkeypatch.setattr("hf_unlearn.models.pretrained.os.replace", fail_into_place)
    with pytest.raises(OSError, match="disk"):
        save_model(build("vit", labels=3), None, tmp_path / "model")
    assert files(tmp_path) == ["model"]
    assert not changed(state(model), state(type(model).from_pretrained(tmp_path / "model")))


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "expected"), [(1348, 64, 25, 50), (96, 64, 1, 0), (640, 64, 10, 10), (65, 64, 5, 1)]
)
def test_the_learning_rate_rises_in_a_tenth_of_the_steps_and_in_fifty_at_most(rows, batch, epochs, expected):
    assert warmup_steps(rows, batch, epochs) == expected


@pytest.fixture
def few_rows(tmp_path):
    """A run over few rows with a model that is only built."""
    model = build("vit")
    save_model(model, image_processor(), tmp_path / "original")
    for split in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        image_data(40).to_parquet(tmp_path / "data" / f"{split}.parquet")
    args = UnlearningArguments(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True)
    run = {"model": str(tmp_path / "original"), "dataset": str(tmp_path / "data"), "forget_class": ["1"]}
    return run, args


def test_a_model_retrained_for_one_epoch_of_few_rows_has_learned_something(few_rows, caplog):
    run, args = few_rows
    job = prepare(RunArguments(**run, train_epochs=1, train_learning_rate=1e-2), args)
    model, _ = retrain(job)
    torch.manual_seed(args.seed + 1)
    fresh = type(model)(model.config)
    moved = [(p - q).abs().max().item() for p, q in zip(fresh.parameters(), model.parameters(), strict=True)]
    assert max(moved) == pytest.approx(1e-2, rel=0.5)  # a step of AdamW is as long as the learning rate
    assert "random weights" not in caplog.text


def test_a_model_that_training_did_not_move_is_called_that(few_rows, tmp_path, caplog):
    run, args = few_rows
    job = prepare(RunArguments(**run, train_epochs=1, train_learning_rate=1e-60), args)  # nothing in float32
    retrain(job)
    assert "The retrained model is what it was before its training" in caplog.text
    model, _ = load_model(job.run, job.train)
    processor = Processor(model, job.processing_class)
    train_classifier(
        model, job.train, processor, {"learning_rate": 0.0, "use_cpu": True, "max_steps": 1}, tmp_path / "x"
    )
    assert "The original is what it was before its training" in caplog.text


@pytest.mark.parametrize("best", [False, True], ids=["last", "best"])
def test_a_resumed_run_is_stopped_early_where_the_undisturbed_one_is(tmp_path, best):
    """It gets worse with every step, and a patience of three is up after four evaluations."""

    def run(folder, *callbacks, resume=None):
        trainer = trainer_for(
            "vit", tmp_path / folder, GradientAscent(), callbacks=[EarlyStoppingCallback(3), *callbacks], save_steps=1,
            save_strategy="steps", eval_strategy="steps", eval_steps=1, max_steps=10, load_best_model_at_end=best,
            eval_dataset=data_for("vit", 32, 3), metric_for_best_model="eval_loss", trust_region=0.05,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    assert whole.outcome.steps == 4
    with pytest.raises(Killed):
        run("killed", KillAt(3))
    resumed = run("killed", resume=True)
    assert resumed.outcome == whole.outcome
    assert not changed(state(whole.model), state(resumed.model))

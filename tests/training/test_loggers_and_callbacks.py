"""Loggers and callbacks of the HF Trainer work as its users expect."""

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_unlearn import ForgetRequest, GradientAscent, GradientDifference, UnlearningTrainer
from tests.support.data import class_split, processing_class, text_data
from tests.support.models import trained
from tests.support.runs import SGD, arguments, trainer_for

pytestmark = pytest.mark.slow

# --- loggers ----------------------------------------------------------------------------------------------------------


def checks_of(trainer):
    return {int(check["step"]): (check["forget"], check["retain"]) for check in trainer.outcome.path}


def test_checks_are_entries_of_the_log_at_their_steps(tmp_path):
    trainer = trainer_for("vit", tmp_path, GradientDifference(), max_steps=6, check_steps=2, logging_steps=3)
    trainer.train()
    history = trainer.state.log_history
    found = {e["step"]: (e["forget_remembered"], e["retain_accuracy"]) for e in history if "forget_remembered" in e}
    assert found == checks_of(trainer)
    assert list(found) == [0, 2, 4, 6]
    assert [e["step"] for e in history if "loss" in e] == [3, 6], "a check must not replace the entry of its step"
    quiet = trainer_for("vit", tmp_path / "quiet", GradientDifference(), max_steps=2, logging_strategy="no")
    quiet.train()
    assert not [e for e in quiet.state.log_history if "forget_remembered" in e]


def test_tensorboard_has_the_terms_and_the_checks(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    data = text_data(64).add_column("user", [f"secret-{i}" for i in range(64)])
    split = ForgetRequest(column="user", values=[f"secret-{i}" for i in range(9)]).split(data)
    trainer = trainer_for(
        "bert", tmp_path, GradientDifference(), split=split, report_to="tensorboard", max_steps=4, check_steps=2,
        forget_kind="samples", eval_strategy="no",
    )  # fmt: skip
    trainer.train()
    files = list(tmp_path.rglob("events.out.tfevents*"))
    assert len(files) == 1
    events = accumulator.EventAccumulator(str(files[0]))
    events.Reload()
    found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert {"train/loss", "train/loss/forget", "train/loss/retain", "train/learning_rate"} <= found.keys()
    checks = checks_of(trainer)
    assert found["train/forget_remembered"] == pytest.approx({step: forget for step, (forget, _) in checks.items()})
    assert found["train/retain_accuracy"] == pytest.approx({step: retain for step, (_, retain) in checks.items()})
    logged = {e["step"]: e["loss/forget"] for e in trainer.state.log_history if "loss/forget" in e}
    assert found["train/loss/forget"] == pytest.approx(logged, rel=1e-5)
    content = files[0].read_bytes()
    assert b"secret-" not in content
    assert not any(text.encode() in content for text in split.forget["text"])


def test_trackio_has_the_terms_and_the_checks(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="needs trackio, whose local dashboard brings a web server")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    trainer = trainer_for(
        "vit", tmp_path / "out", GradientDifference(), report_to="trackio", project="forgetting", run_name="first",
        max_steps=4, check_steps=2, trackio_space_id=None,
    )  # fmt: skip
    trainer.train()
    entries = SQLiteStorage.get_logs("forgetting", "first")
    shares = [e["train/forget_remembered"] for e in entries if "train/forget_remembered" in e]
    assert shares == pytest.approx([forget for forget, _ in checks_of(trainer).values()])
    assert {"train/loss/forget", "train/loss/retain"} <= set().union(*entries)


# --- callbacks --------------------------------------------------------------------------------------------------------


class Every(TrainerCallback):
    """Records every event and its arguments."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(args, state, control, **kwargs):
            self.events.append((name, state.global_step, kwargs.get("model")))

        return note


def test_every_event_reaches_a_callback_in_its_turn(tmp_path):
    every = Every()
    split = class_split("vit")
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(
            tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            gradient_accumulation_steps=2, per_device_train_batch_size=4,
        ),
        GradientDifference(),
        split.forget,
        split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain},
        processing_class=processing_class("vit"),
        callbacks=[every],
    )  # fmt: skip
    trainer.train()
    names = [name for name, _, _ in every.events]
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    wanted = ["on_init_end", "on_train_begin", "on_epoch_begin", *step, "on_log", "on_evaluate", "on_save", *step]
    remaining = iter(names)
    assert all(any(found == want for found in remaining) for want in wanted), names
    assert names[-1] == "on_train_end"
    assert names.count("on_evaluate") == 4
    assert names.count("on_prediction_step") == 4
    assert all(model is None or model is trainer.model for _, _, model in every.events)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


def test_early_stopping_by_a_named_evaluation_set(tmp_path):
    split, patience = class_split("vit"), 2
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(
            tmp_path, max_steps=30, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="eval_retain_loss", greater_is_better=False, check_steps=100,
            update="all", trust_region=0.02, lr_scheduler_type="constant",
        ),
        GradientAscent(),
        split.forget,
        split.retain,
        eval_dataset={"forget": split.forget, "retain": split.retain},
        processing_class=processing_class("vit"),
        callbacks=[EarlyStoppingCallback(patience)],
    )  # fmt: skip
    trainer.train()
    losses = [e["eval_retain_loss"] for e in trainer.state.log_history if "eval_retain_loss" in e]
    best = int(np.argmin(losses))
    assert trainer.state.global_step == best + 1 + patience == len(losses) < 30
    assert trainer.outcome.stopped == "ended by a callback"
    assert trainer.state.best_global_step == best + 1
    assert trainer.evaluate()["eval_retain_loss"] == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_ended_by_a_callback_ends_with_its_average(tmp_path, stop):
    """The average after so many steps, whether the last of them has a check or not."""
    seen = []

    class Note(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append(state_of(model))

    def state_of(model):
        return {n: p.detach().clone() for n, p in model.named_parameters()}

    trainer = trainer_for(
        "vit", tmp_path, GradientDifference(), max_steps=8, check_steps=4, weight_average=0.5, update="all",
        callbacks=[Note(), StopAt(stop)], **SGD,
    )  # fmt: skip
    average = state_of(trainer.model)
    trainer.train()
    for weights in seen:
        average = {n: torch.lerp(average[n], w, 0.5) for n, w in weights.items()}
    assert len(seen) == stop
    assert trainer.outcome.stopped == "ended by a callback"
    final = state_of(trainer.model)
    assert all(torch.allclose(final[n], average[n], atol=1e-7) for n in final)
    assert not all(torch.allclose(final[n], seen[-1][n], atol=1e-7) for n in final)

"""With which settings a model is retrained: the recipe's, those noted beside the original, or longer and longer ones."""

import json
from dataclasses import replace

import pytest

from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.training_settings import TrainingSettings, given_settings, recorded_settings, trainings

CARD = """---
license: mit
---
# model

The following hyperparameters were used during training:
- learning_rate: 2e-05
- train_batch_size: 16
- eval_batch_size: 8
- seed: 42
- gradient_accumulation_steps: 2
- total_train_batch_size: 32
- optimizer: Use adamw_torch with betas=(0.9,0.999)
- lr_scheduler_type: SchedulerType.COSINE
- num_epochs: 4.0

### Framework versions
"""
STATE = {
    "num_train_epochs": 7,
    "train_batch_size": 12,
    "log_history": [{"learning_rate": 1e-4}, {"learning_rate": 5e-4}, {"loss": 1.0}],
}


def run_from(folder, **keys):
    return RunArguments(str(folder), "d", **keys)


def test_the_card_of_the_trainer_and_its_state_are_read(tmp_path):
    assert recorded_settings(run_from(tmp_path), 100) is None
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    assert recorded_settings(run_from(tmp_path), 100) == TrainingSettings(7, 5e-4, 12, "linear", "trainer_state.json")
    (tmp_path / "README.md").write_text(CARD)
    assert recorded_settings(run_from(tmp_path), 100) == TrainingSettings(4, 2e-5, 32, "cosine", "README.md")


def test_steps_in_place_of_epochs(tmp_path):
    (tmp_path / "README.md").write_text(CARD.replace("num_epochs: 4.0", "training_steps: 50"))
    assert recorded_settings(run_from(tmp_path), 400).epochs == 50 * 32 / 400


@pytest.mark.parametrize(
    "state",
    ["{", "[]", "{}", '{"num_train_epochs": 1e9}', '{"num_train_epochs": "many"}', '{"num_train_epochs": -1}',
     '{"num_train_epochs": NaN}', '{"num_train_epochs": null, "log_history": 3}', '{"log_history": [1, {"learning_rate": "x"}]}'],
)  # fmt: skip
def test_a_file_that_tells_nothing_usable_is_no_setting(tmp_path, state):
    (tmp_path / "trainer_state.json").write_text(state)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe hyperparameters were used\n- num_epochs: -3\n- learning_rate: inf")
    assert recorded_settings(run_from(tmp_path), 100) is None


@pytest.mark.parametrize("batch", ["0.5", "0", "-4", "1e12", "x"])
def test_a_batch_size_that_no_training_has_is_left_out(tmp_path, batch):
    (tmp_path / "README.md").write_text(CARD.replace("total_train_batch_size: 32", f"total_train_batch_size: {batch}"))
    assert recorded_settings(run_from(tmp_path), 100).batch_size == 64


def test_the_pickle_of_the_arguments_is_not_read(tmp_path):
    (tmp_path / "training_args.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert recorded_settings(run_from(tmp_path), 100) is None


def test_the_recipe_comes_before_what_is_noted(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (only,) = trainings(run_from(tmp_path, train_epochs=3), 100, 90)
    assert (only.epochs, only.learning_rate, only.batch_size) == (3, 2e-5, 32)
    (only,) = trainings(run_from(tmp_path, model_config="c.json"), 100, 90)
    assert only == TrainingSettings() == given_settings(run_from(tmp_path))


def test_a_guess_is_followed_by_longer_trainings_that_end(tmp_path):
    found = trainings(run_from(tmp_path), 100, 100)
    assert [s.epochs for s in found] == [10, 40, 160, 640]
    assert found[0] == TrainingSettings()
    assert [s.epochs for s in trainings(run_from(tmp_path), 50_000, 45_000)] == [10]
    (tmp_path / "README.md").write_text(CARD)  # a rate for a trained base, too low for fresh weights
    assert [s.learning_rate for s in trainings(run_from(tmp_path), 100, 90)] == [2e-5, 1e-3, 1e-3, 1e-3]
    fixed = trainings(run_from(tmp_path, train_learning_rate=1e-2), 100, 90)
    assert {s.learning_rate for s in fixed} == {1e-2}


def test_a_training_from_a_base_is_a_fine_tuning(tmp_path):
    run = run_from(tmp_path)
    first, *longer = trainings(run, 100, 80, from_base=True)
    assert (first.epochs, first.learning_rate, first.batch_size) == (3, 5e-5, 8)  # as in TrainingArguments
    assert [(s.epochs, s.learning_rate, s.source) for s in longer] == [(3 * m, 5e-5, "search") for m in (4, 16, 64)]
    assert trainings(run, 100, 80, from_base=True, adapter=True)[0] == replace(first, learning_rate=1e-3)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"num_train_epochs": 5}))
    assert trainings(run, 100, 80, from_base=True)[0] == TrainingSettings(5, 5e-5, 8, "linear", "trainer_state.json")
    assert trainings(run, 100, 80)[0] == TrainingSettings(5, 1e-3, 64, "linear", "trainer_state.json")
    told = run_from(tmp_path, train_epochs=2, train_learning_rate=1e-4)
    assert trainings(told, 100, 80, from_base=True) == [TrainingSettings(2, 1e-4, 8, "linear", "trainer_state.json")]

"""Recipes and the command line: every key is checked, and bad input ends before anything is loaded."""

import json
import os
from pathlib import Path

import datasets
import pytest
import torch

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.cli.run import parse
from tests.support.data import image_data, image_processor
from tests.support.models import trained

RECIPES = sorted(p for p in (Path(__file__).parents[1] / "recipes").glob("*/*.yaml") if p.parent.name != "accelerate")


def recipe(tmp_path, **keys):
    lines = {"model": "m", "dataset": "digits", "forget_class": "['3']", "output_dir": str(tmp_path / "out"), **keys}
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))
    return str(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_parses_and_names_something_to_forget(path):
    run, _, method = parse(["--config", str(path)])
    if method.needs_column:
        assert method.attribute
    else:
        assert run.request().describe()
    assert (Path(__file__).parents[1] / run.model_config).is_file()


def test_command_line_wins_and_numbers_are_numbers(tmp_path):
    config = recipe(tmp_path, train_learning_rate="5e-4", sigma=0.7)
    run, args, method = parse(["--config", config, "--sigma", "0.9", "--seed", "3"])
    assert (run.train_learning_rate, method.sigma, args.seed) == (5e-4, 0.9, 3)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"sigmaa": 1}, "`sigmaa`.*`sigma`"),
        ({"method": "magic"}, "`method='magic'`"),
        ({"sigma": -1}, "`sigma`"),
        ({"trust_region": 2}, "`trust_region`"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, keys, match):
    with pytest.raises(SystemExit, match=match):
        parse(["--config", recipe(tmp_path, **keys)])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[0123, 12:30, yes, 1_0, 2020-01-01, 1.50]", ["0123", "12:30", "yes", "1_0", "2020-01-01", "1.50"]),
        ("['0123', \"null\"]", ["0123", "null"]),
        ("0123", ["0123"]),
    ],
)
def test_identifiers_in_a_recipe_stay_what_was_written(tmp_path, written, read):
    config = recipe(tmp_path, forget_column="no", forget_values=written, save_strategy="no")
    run, args, _ = parse(["--config", config])
    assert (run.forget_column, run.forget_values, args.save_strategy) == ("no", read, "no")


def test_mappings_in_a_recipe_have_numbers_and_texts(tmp_path):
    adapter = "{peft_type: LORA, r: 4, lora_dropout: 0.5, use_dora: true, target_modules: [query, value]}"
    run, _, _ = parse(["--config", recipe(tmp_path, peft_config=adapter, bias_column="p", bias_labels="{010: 2}")])
    expected = {
        "peft_type": "LORA",
        "r": 4,
        "lora_dropout": 0.5,
        "use_dora": True,
        "target_modules": ["query", "value"],
    }
    assert json.loads(run.peft_config) == expected
    assert json.loads(run.bias_labels[0]) == {"010": 2}


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("max_steps: 2\nmax_steps: 3\n", "`max_steps` stands twice.*line 6"),
        ("bias_labels: {a: 1, a: 2}\n", "`a` stands twice"),
        ("retrain:\n", "`retrain` has no value"),
        ("retrain: ~\n", "`retrain` has no value"),
        ("forget_values: []\n", "`forget_values` has no value"),
        ("forget_values: [u1, null]\n", "`forget_values` has no value"),
        ("forget_values: [[u1]]\n", "`forget_values`.*flat list"),
        ("? [a, b]\n: 3\n", "key in line 5 .*is no name"),
        ("bias_labels: {{a: 1}: 2}\n", "key in line 5 .*is no name"),
    ],
)
def test_a_recipe_that_says_a_thing_twice_or_not_at_all_is_refused(tmp_path, lines, match):
    config = Path(recipe(tmp_path))
    config.write_text(config.read_text() + lines)
    with pytest.raises(SystemExit, match=match):
        parse(["--config", str(config)])


def test_a_wrong_type_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--config", recipe(tmp_path, learning_rate="fast")])
    usage, error = capsys.readouterr().err.splitlines()  # not all keys
    assert usage.startswith("usage: hf-unlearn run ")
    assert error == "hf-unlearn run: error: argument --learning_rate/--learning-rate: invalid float value: 'fast'"


def test_on_and_off_in_a_recipe_are_true_and_false_where_nothing_else_may_stand(tmp_path):
    switched = {"figures": "off", "retrain": "On", "bf16": "off", "tf32": "off", "gradient_checkpointing": "on"}
    run, args, _ = parse(
        ["--config", recipe(tmp_path, **switched, dataset_config="off", forget_column="on", forget_values="[off]")]
    )
    assert (run.figures, run.retrain, args.bf16, args.tf32, args.gradient_checkpointing) == (
        False,
        True,
        False,
        False,
        True,
    )
    assert (run.dataset_config, run.forget_column, run.forget_values) == ("off", "on", ["off"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"forget_class": "['nine']"}, "`label='nine'`"), ({"train_split": "trian"}, "`train_split='trian'`")],
)
def test_bad_input_exits_with_2_before_the_model_is_read(tmp_path, capsys, keys, message):
    assert main(["run", "--config", recipe(tmp_path, **keys)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_a_model_is_refused(tmp_path, capsys):
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert main(["run", "--config", recipe(tmp_path)]) == 2
    assert "`output_dir=" in capsys.readouterr().err


def test_the_original_is_never_the_output(tmp_path, capsys):
    assert main(["run", "--config", recipe(tmp_path, model=str(tmp_path / "out" / "model"))]) == 2
    assert "would overwrite the original" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--method", "fine_tune"], ["--method=fine_tune"]])
def test_the_method_on_the_command_line_is_the_one_that_runs(tmp_path, words):
    _, args, method = parse([f"--config={recipe(tmp_path, method='jit')}", *words])
    assert (args.method, method.name) == ("fine_tune", "fine_tune")


def test_shortened_options_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="metho"):
        parse(["--config", recipe(tmp_path), "--metho", "fine_tune"])


@pytest.fixture
def words(tmp_path):
    trained("vit").save_pretrained(tmp_path / "original")
    image_processor().save_pretrained(tmp_path / "original")
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(96, seed).to_parquet(tmp_path / "data" / f"{split}.parquet")
    keys = {
        "model": tmp_path / "original",
        "dataset": tmp_path / "data",
        "forget_class": "1",
        "output_dir": tmp_path / "out",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    return ["run", *(str(w) for k, v in keys.items() for w in (f"--{k}", v))]


def test_a_report_that_fails_does_not_take_the_model_with_it(tmp_path, words, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("no report today")

    monkeypatch.setattr(UnlearningReport, "measure", fail)
    assert main(words) == 2
    assert "no report today" in capsys.readouterr().err
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_a_test_split_that_cannot_be_measured_on_is_refused_before_training(tmp_path, words, monkeypatch, capsys):
    data = image_data(96, 9).cast_column("label", datasets.Value("int64"))
    hidden = data.remove_columns("label").add_column("label", [0] * 90 + [-1] * 6)
    hidden.to_parquet(tmp_path / "data" / "test.parquet")
    train = image_data(96).cast_column("label", datasets.Value("int64"))
    train.to_parquet(tmp_path / "data" / "train.parquet")
    monkeypatch.setattr(UnlearningTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    assert main(words) == 2
    assert "`test_split`: 6 labels in column 'label' are outside" in capsys.readouterr().err


def malformed_row(folder):
    for split in ("train", "test"):
        (folder / "data" / f"{split}.parquet").unlink()
    (folder / "data" / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": \n')
    return "`dataset`: a file of it cannot be read"


def cut_off_weights(folder):
    os.truncate(folder / "original" / "model.safetensors", 3000)
    return "A file of weights is damaged or not whole"


@pytest.mark.parametrize("spoil", [malformed_row, cut_off_weights])
def test_files_that_cannot_be_read_exit_with_2_and_a_message(tmp_path, words, capsys, spoil):
    told = spoil(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_change_outside_update_exits_with_2_and_writes_no_model(tmp_path, words, monkeypatch, capsys):
    original = UnlearningTrainer.training_step

    def stray(self, model, *args, **kwargs):
        with torch.no_grad():
            model.vit.embeddings.cls_token.add_(1.0)
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(UnlearningTrainer, "training_step", stray)
    assert main([*words, "--update", "head", "--max_steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "vit.embeddings.cls_token. The model must not be used. Load the original again" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "model").exists()


def test_an_error_that_nobody_foresaw_has_its_traceback_and_an_exit_code_of_its_own(words, monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyError("unforeseen")

    monkeypatch.setattr(UnlearningTrainer, "train", fail)
    assert main(words) == 70
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "KeyError: 'unforeseen'" in error


@pytest.mark.parametrize(
    ("message", "shown"),
    [("Resume from the checkpoint in out", "checkpoint in out with --resume true."), ("", "Interrupted. \n")],
)
def test_an_interrupt_says_how_to_go_on_where_there_is_a_checkpoint(words, monkeypatch, capsys, message, shown):
    def interrupt(*_, **__):
        raise KeyboardInterrupt(message)

    monkeypatch.setattr(UnlearningTrainer, "train", interrupt)
    assert main(words) == 130
    assert shown in capsys.readouterr().err


def test_bias_arguments_are_read_checked_and_reported(tmp_path, words, capsys):
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).add_column("pattern", ["present" if i % 3 else "absent" for i in range(96)])
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    (tmp_path / "recipe.yaml").write_text("bias_column: pattern\nbias_labels: {present: 2}\nmax_steps: 1\n")
    recipe = [*words, "--config", str(tmp_path / "recipe.yaml"), "--figures", "false"]
    assert main([*recipe, "--bias_labels", "green=2"]) == 2
    assert "`bias_labels`: 'green' is no value of 'pattern'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()
    assert main(recipe) in (0, 1)
    assert "bias following" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["bias"] == {"column": "pattern", "labels": {"present": "LABEL_2"}}
    assert {"bias_following", "bias_without", "cramers_v"} <= report["models"]["unlearned"].keys()
    assert "bias following" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("max_retain_drop", "5", "a share in .0, 1., got 5.0. Write 5 % as 0.05"),
        ("max_retain_drop", "nan", "a share"),
        ("probe_size", "0", "at least 1, got 0"),
        ("probe_size", "-3", "at least 1, got -3"),
        ("check_steps", "0", "at least 1"),
        ("per_device_train_batch_size", "0", "at least 1"),
        ("per_device_eval_batch_size", "0", "at least 1"),
        ("num_train_epochs", "0", "above 0"),
        ("momentum", "7", ".0, 1., got 7.0"),
        ("dataloader_drop_last", "true", "Leave it off"),
        ("dataloader_persistent_workers", "true", "Leave it off"),
        ("train_batch_size", "0", "at least 1"),
        ("train_epochs", "-1", "above 0, got -1.0"),
        ("train_learning_rate", "0", "above 0"),
        ("train_rows", "0", "at least 1"),
        ("test_rows", "0", "at least 1"),
        ("label_column", "", "is empty"),
    ],
)
def test_values_that_switch_something_off_or_fail_late_are_refused(tmp_path, key, value, told):
    with pytest.raises(SystemExit, match=f"`{key}`.*{told}"):
        parse(["--config", recipe(tmp_path), f"--{key}", value])

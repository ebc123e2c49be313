"""`hf-unlearn run`: how command line and recipe are read, and whole runs in fresh processes."""

import json
import signal

import datasets
import numpy as np
import pytest
from safetensors.torch import load_file

from hf_unlearn.cli.run import parse
from tests.cli.support import begin, complete, forked, run_command
from tests.support.data import image_data, pixel_data, text_data, tokenizer
from tests.support.fresh_processes import exit_codes, until
from tests.support.hub_runs import digests
from tests.support.models import trained
from tests.support.recipes import write_recipe


def test_command_line_wins_and_numbers_are_numbers(tmp_path):
    config = write_recipe(tmp_path, train_learning_rate="5e-4", rewind=0.7)
    run, args, method = parse(["--config", config, "--rewind", "0.9", "--seed", "3"])
    assert (run.train_learning_rate, method.rewind, args.seed) == (5e-4, 0.9, 3)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"rewindd": 1}, "`rewindd`.*`rewind`"),
        ({"method": "magic"}, "`method='magic'`"),
        ({"rewind": -1}, "`rewind`"),
        ({"trust_region": 2}, "`trust_region`"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, keys, match):
    with pytest.raises(SystemExit, match=match):
        parse(["--config", write_recipe(tmp_path, **keys)])


def test_an_option_of_another_method_is_named_as_such(tmp_path):
    recipe = write_recipe(tmp_path, method="jit", sigma=0.5)
    for words in (["--method", "fine_tune"], ["--method=fine_tune", "--sigma", "1"]):
        with pytest.raises(
            SystemExit, match="`sigma` is an option of `--method jit`, and this run is of `--method fine"
        ):
            parse(["--config", recipe, *words])
    with pytest.raises(SystemExit, match="`num_perturbations` is an option of `--method jit`"):
        parse(["--config", write_recipe(tmp_path), "--method", "fine_tune", "--num-perturbations=3"])


def test_a_wrong_type_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--config", write_recipe(tmp_path, learning_rate="fast")])
    usage, error = capsys.readouterr().err.splitlines()  # not all keys
    assert usage.startswith("usage: hf-unlearn run ")
    start = "hf-unlearn run: error: argument --learning_rate/--learning-rate: invalid float value: 'fast'. "
    assert error == f"{start}`hf-unlearn run --help` explains the options."


@pytest.mark.parametrize("words", [["--method", "fine_tune"], ["--method=fine_tune"]])
def test_the_method_on_the_command_line_is_the_one_that_runs(tmp_path, words):
    _, args, method = parse([f"--config={write_recipe(tmp_path, method='jit')}", *words])
    assert (args.method, method.name) == ("fine_tune", "fine_tune")


def test_shortened_options_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="metho"):
        parse(["--config", write_recipe(tmp_path), "--metho", "fine_tune"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
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
    ],
)
def test_values_that_switch_something_off_or_fail_late_are_refused(tmp_path, key, value, message):
    with pytest.raises(SystemExit, match=f"`{key}`.*{message}"):
        parse(["--config", write_recipe(tmp_path), f"--{key}", value])


@pytest.mark.slow
def test_a_run_forgets_reports_and_leaves_the_original_alone(folders, tmp_path):
    before = digests(folders / "original"), digests(folders / "data")
    done = complete(run_command(folders, tmp_path / "out", retrain="true", train_epochs=2, relearning="true"))
    assert done.returncode == 0, done.stderr
    assert (digests(folders / "original"), digests(folders / "data")) == before
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["unlearned"]["test_forgotten_accuracy"] <= 0.1
    kept = {name: report["models"][name]["test_kept_accuracy"] for name in ("original", "unlearned")}
    assert kept["unlearned"] >= kept["original"] - 0.05
    assert {"original", "unlearned", "retrained"} == set(report["models"])
    assert (tmp_path / "out" / "retrained" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "report.md").is_file()
    written = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= written
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".pth")) for name in written)
    assert "test accuracy, forgotten classes" in done.stdout


@pytest.mark.slow
def test_a_target_that_is_missed_exits_with_1_and_says_so(folders, tmp_path):
    done = forked(run_command(folders, tmp_path / "out", max_steps=1, trust_region=0.001))
    assert done.returncode == 1
    assert "target was not reached" in done.stdout + done.stderr


@pytest.mark.slow
def test_rows_that_the_report_says_are_remembered_exit_with_1(folders, tmp_path):
    """To a run of single rows nothing is wrong: it has no target. The retrained model shows what is left."""
    retraining = {"retrain": "true", "train_epochs": 15, "train_batch_size": 8, "train_learning_rate": 3e-3}
    keys = {
        "method": "fine_tune",
        "forget_class": None,
        "forget_column": "label",
        "forget_values": "1",
        "max_steps": 10,
    }
    done = forked(run_command(folders, tmp_path / "out", **keys, learning_rate=2e-3, **retraining))
    assert done.returncode == 1, done.stdout[-3000:]
    assert "Did it forget?" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["outcome"]["warnings"]
    assert report["models"]["unlearned"]["forget_accuracy"] > report["models"]["retrained"]["forget_accuracy"] + 0.5


@pytest.mark.slow
def test_nan_in_the_data_exits_with_2_and_writes_no_model(folders, tmp_path):
    rows = pixel_data(96).with_format("numpy")
    pixels = np.stack(rows["pixel_values"])
    pixels[1, 0, 0, 0] = np.nan
    columns = {name: list(pixel_data(96)[name]) for name in ("label", "group")}
    data = datasets.Dataset.from_dict({"pixel_values": pixels, **columns}, features=pixel_data(8).features)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "train.parquet")
    done = forked(run_command(folders, tmp_path / "out", dataset=tmp_path / "data", test_split="none"))
    assert done.returncode == 2, done.stderr
    assert "NaN" in done.stderr
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.slow
def test_text_from_a_recipe_under_accelerate_launch(tmp_path):
    trained("bert").save_pretrained(tmp_path / "original")
    tokenizer().save_pretrained(tmp_path / "original")
    (tmp_path / "data").mkdir()
    text_data(96).to_json(tmp_path / "data" / "train.jsonl")
    text_data(96, 9).to_json(tmp_path / "data" / "test.jsonl")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("forget_class: ['2']\nmethod: jit\n")
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = complete(run_command(tmp_path, tmp_path / "out", launcher=launcher, config=recipe, forget_class=None))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["forgotten_classes"] == [2]
    assert report["models"]["unlearned"]["forget_accuracy"] <= 0.02


@pytest.mark.slow
def test_a_killed_run_resumes_in_a_fresh_process_to_the_same_weights(folders, tmp_path):
    settings = {
        "method": "gradient_ascent", "update": "all", "forget_target": -1, "save_strategy": "steps", "save_steps": 5,
        "max_steps": 60, "learning_rate": 1e-6, "check_steps": 5, "per_device_train_batch_size": 4, "figures": "false",
    }  # fmt: skip
    whole = forked(run_command(folders, tmp_path / "whole", **settings))
    assert whole.returncode in (0, 1), whole.stderr
    words = run_command(folders, tmp_path / "killed", **settings)
    process = begin(words)
    until((tmp_path / "killed" / "checkpoint-10" / "unlearning_state.json").exists, process)
    process.kill()
    assert exit_codes([process]) == [-signal.SIGKILL]
    assert not (tmp_path / "killed" / "model").exists()
    again = forked([*words, "--resume", "true"])
    assert again.returncode == whole.returncode, again.stderr
    ours, theirs = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("killed", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    paths = [json.loads((tmp_path / n / "report.json").read_text())["outcome"]["path"] for n in ("killed", "whole")]
    assert paths[0] == paths[1]


@pytest.mark.slow
def test_an_attribute_from_the_command_line(folders, tmp_path):
    keys = {"attribute": "side", "forget_class": None}
    done = forked(run_command(folders, tmp_path / "out", method="wasserstein_barycenter", **keys))
    assert done.returncode == 2
    assert "`side`" in done.stderr or "'side'" in done.stderr
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).add_column("side", ["left" if i % 8 < 4 else "right" for i in range(96)])
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    keys["dataset"] = tmp_path / "data"
    done = forked(run_command(folders, tmp_path / "out", method="wasserstein_barycenter", **keys))
    assert done.returncode == 0, done.stderr
    written = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert {"model.safetensors", "barycenter.safetensors", "barycenter.json"} <= written
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["groups"]["unlearned"]) == {"left", "right"}
    assert report["information"]["unlearned"]["conditional"]
    features = forked(run_command(folders, tmp_path / "other", method="feature_information", max_steps=3, **keys))
    assert features.returncode == 0, features.stderr


@pytest.mark.slow
def test_samples_of_a_class_with_marginal_information(folders, tmp_path):
    settings = {"method": "marginal_information", "forget_fraction": 0.6, "max_steps": 20}
    done = forked(run_command(folders, tmp_path / "out", retrain="true", train_epochs=2, **settings))
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0 < report["outcome"]["forget_target"] <= 1
    assert report["run"]["rows"]["test"] == 96 - 96 // 5
    assert report["information"]["original"]["bounds"]["total_variation"] <= 1


@pytest.mark.slow
def test_without_a_method_the_one_that_suits_runs_and_says_so(folders, tmp_path):
    done = forked(run_command(folders, tmp_path / "out", method=None))
    assert done.returncode == 0, done.stderr
    assert "Method: surrogate_distillation, because rows to keep are at hand." in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["unlearned"]["test_kept_accuracy"] > 0.9
    assert report["run"]["method"]["method"] == "surrogate_distillation"

"""The long steps of a run: what is refused before training, what is measured, and what a failed report leaves."""

import json

import datasets
import pytest

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from tests.support.data import image_data
from tests.support.recipes import run_options, save_model_and_data


@pytest.fixture
def words(tmp_path):
    return ["run", *run_options(save_model_and_data(tmp_path), output_dir=tmp_path / "out")]


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


@pytest.mark.parametrize(("split", "argument"), [("train", "retain_dataset"), ("test", "test_split")])
def test_a_damaged_picture_that_jit_does_not_read_is_found_before_training(
    tmp_path, words, monkeypatch, capsys, split, argument
):
    monkeypatch.setattr(UnlearningTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    for name in ("train", "test"):
        stored = image_data(96).cast_column("image", datasets.Image(decode=False))
        cells = stored["image"][:]
        if name == split:
            cells[92]["bytes"] = cells[92]["bytes"][:120]  # of class 0
        data = stored.remove_columns("image").add_column("image", cells, feature=datasets.Image())
        data.to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"`{argument}`, row " in error
    assert "column `image`: the picture is damaged" in error


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

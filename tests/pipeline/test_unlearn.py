"""The long steps of a run: what is refused before training, what is measured, and what a failed report leaves."""

import json

import datasets
import pytest
from transformers import AutoModelForImageClassification

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from tests.support.data import image_data, image_processor
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


def test_a_folder_without_one_of_the_models_classes_forgets_the_class_that_was_named(tmp_path, capsys, caplog):
    save_model_and_data(tmp_path)
    names = ["ant", "bee", "cat", "dog"]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "original")
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(tmp_path / "original")
    for split, seed in (("train", 0), ("test", 9)):
        for number, row in enumerate(image_data(96, seed)):
            if row["label"] != 2:  # no cats, so that dogs have number 2
                folder = tmp_path / "pets" / split / names[row["label"]]
                folder.mkdir(parents=True, exist_ok=True)
                row["image"].save(folder / f"{number}.png")
    words = {"dataset": tmp_path / "pets", "output_dir": tmp_path / "out", "figures": "false"}
    assert main(["run", *run_options(tmp_path, **words, forget_class="2")]) == 2
    assert "`forget_class='2'` is 'dog' in the data set and 'cat' in the model" in capsys.readouterr().err
    assert main(["run", *run_options(tmp_path, **words, forget_class="dog")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["forgotten_labels"] == ["dog"]
    assert report["models"]["original"]["test_accuracy"] > 0.9
    assert caplog.text.count("Labels are matched by name.") == 1
    unlearned = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model")
    logits, labels = predict(unlearned, image_data(96, 9), Processor(unlearned, image_processor()))
    right = logits.argmax(-1) == labels
    assert [right[labels == c].float().mean() > 0.5 for c in range(4)] == [True, True, True, False]

"""What is refused before a model is read or trained, and which parts of a job are loaded."""

import json
from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.methods import FeatureInformation
from hf_unlearn.pipeline.prepare import check_folders, check_request, prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.recipes import save_model_and_data, write_recipe
from tests.support.runs import arguments


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"forget_class": "['nine']"}, "`forget_class='nine'` is no class"),
        (
            {"forget_class": None, "forget_column": "labl", "forget_values": "[1]"},
            "`forget_column='labl'` is not a col",
        ),
        ({"forget_class": None, "forget_column": "label", "forget_values": "[a]"}, "`forget_values` cannot be read"),
        (
            {"forget_class": None, "forget_column": "label", "forget_values": "[11]"},
            "`forget_values`: 1 of 1 are in no",
        ),
        ({"forget_class": None, "forget_column": "label", "forget_ids_file": "FILE"}, "`forget_ids_file` cannot be"),
        (
            {"forget_class": None, "forget_ids_file": "FILE"},
            "`forget_ids_file` must hold row numbers. For other ids give `forget_column`",
        ),
        ({"train_split": "trian"}, "`train_split='trian'`"),
    ],
)
def test_bad_input_exits_with_2_before_the_model_is_read(tmp_path, capsys, keys, message):
    file = tmp_path / "ids.txt"
    file.write_text("u1\nu2\n")
    keys = {name: file if value == "FILE" else value for name, value in keys.items()}
    assert main(["run", "--config", write_recipe(tmp_path, **keys)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "Nothing is named to forget. Give `forget_class`, `forget_column` with"),
        ({"forget_values": ["u1"]}, "`forget_values` needs `forget_column`"),
        ({"forget_column": "user"}, "`forget_column='user'` needs `forget_values` or `forget_ids_file`"),
        ({"forget_fraction": 1.5}, "`forget_fraction` must lie strictly between 0 and 1, got 1.5"),
        ({"forget_ids_file": "none.txt"}, "`forget_ids_file` does not exist: none.txt. Give the path"),
        ({"forget_class": ["3"], "bias_column": "side"}, "`bias_labels` is missing beside `bias_column`"),
        ({"forget_class": ["3"], "bias_labels": ["a=3"]}, "`bias_column` is missing beside `bias_labels`"),
        (
            {"forget_class": ["3"], "bias_column": "side", "bias_labels": ["a"]},
            "`bias_labels=a` is no list of value=label",
        ),
    ],
)
def test_a_request_that_contradicts_itself_is_refused_before_anything_is_loaded(keys, message):
    with pytest.raises(ValueError, match=message):
        check_request(RunArguments("missing", "missing", **keys))


def test_a_folder_that_holds_a_model_is_refused(tmp_path, capsys):
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert main(["run", "--config", write_recipe(tmp_path)]) == 2
    assert "`output_dir=" in capsys.readouterr().err


def test_the_original_is_never_the_output(tmp_path, capsys):
    assert main(["run", "--config", write_recipe(tmp_path, model=str(tmp_path / "out" / "model"))]) == 2
    assert "would overwrite the original" in capsys.readouterr().err


def test_an_attribute_takes_no_rows_to_forget(tmp_path):
    run = RunArguments("missing", "digits", label_column="label", forget_class=["3"])
    with pytest.raises(ValueError, match="leave out `retrain` and the `forget_\\*` keys"):
        prepare(run, arguments(tmp_path), FeatureInformation(attribute="label"))


def test_a_job_holds_both_sides_of_the_request(tmp_path):
    save_model_and_data(tmp_path, rows=32)
    run = RunArguments(str(tmp_path / "original"), str(tmp_path / "data"), forget_class=["1"])
    job = prepare(run, arguments(tmp_path / "out"))
    assert [set(rows["label"]) for rows in (job.split.forget, job.split.retain)] == [{1}, {0, 2, 3}]
    assert (len(job.train), len(job.test), job.validation) == (32, 32, None)
    assert job.model.config.architectures == ["ViTForImageClassification"]
    assert not Path(tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("report.json", lambda p: p.mkdir()),
        ("figures", lambda p: p.write_text("")),
        ("_private", lambda p: p.write_text("")),
        ("model", lambda p: p.symlink_to("nowhere")),
        ("retrained-2", lambda p: p.write_text("")),
        ("README.md", lambda p: p.symlink_to("nowhere")),
    ],
)
def test_what_is_in_the_way_of_a_result_is_found_before_the_run(tmp_path, name, make):
    (tmp_path / "out").mkdir()
    check_folders("m", str(tmp_path / "out"), False)
    make(tmp_path / "out" / name)
    with pytest.raises(ValueError, match=f"`output_dir=.*{name} is (a|write).*the run writes a (file|folder) there"):
        check_folders("m", str(tmp_path / "out"), False, retrain=2)


@pytest.mark.parametrize(
    ("name", "message"), [("", "`output_dir` is empty"), ("x" * 300, "`output_dir='xxx.*too long")]
)
def test_a_name_that_is_no_folder_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        check_folders("m", name, False)


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_an_output_folder_that_cannot_be_made_is_found_before_the_run(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"`output_dir=.*and the run writes a folder there"):
        check_folders("m", str(tmp_path / name), False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"model": "./originall"},
            "`model='./originall'`: there is no such file or folder in .*Did you mean './original'",
        ),
        ({"dataset": "data/"}, None),
        ({"dataset": "./dta"}, "`dataset='./dta'`: there is no such file or folder"),
        ({"model_revision": "v1"}, "`model_revision='v1'`: `model=.*has no revisions"),
        (
            {"model": "new", "model_config": "nothing.json"},
            "`model_config='nothing.json'`: there is no such file or folder",
        ),
        ({"model": "original/model.safetensors"}, "`model`: original/model.safetensors is a file. Give its folder"),
    ],
)
def test_a_wrong_path_is_refused_before_the_hub_is_asked(tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(save_model_and_data(tmp_path, rows=32))
    run = RunArguments(**{"model": "original", "dataset": "data", "forget_class": ["1"], **keys})
    if message is None:
        assert len(prepare(run, arguments(tmp_path / "out")).train) == 32
        return
    with pytest.raises(ValueError, match=message):
        prepare(run, arguments(tmp_path / "out"))


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(save_model_and_data(tmp_path, rows=32)))
    run = RunArguments("~/original", "~/data", forget_class=["1"])
    assert (run.model, run.dataset) == (str(tmp_path / "original"), str(tmp_path / "data"))
    assert len(prepare(run, arguments(tmp_path / "out")).train) == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "16"},
        {"num_attention_heads": 0},
        {"hidden_act": "nope"},
        {"id2label": ["a"]},
        {"num_hidden_layers": [2]},
    ],
)
def test_settings_of_wrong_types_name_the_model(tmp_path, settings):
    save_model_and_data(tmp_path, rows=32)
    file = tmp_path / "original" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    run = RunArguments(str(tmp_path / "original"), str(tmp_path / "data"), forget_class=["1"])
    with pytest.raises(ValueError, match=r"^`model`: "):
        prepare(run, arguments(tmp_path / "out"))

"""The published copy holds no path of this machine, no token, and no name of a group."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hf_unlearn.hub.push.cleaning import without_paths, without_values
from hf_unlearn.hub.push.staging import prepare_folder
from tests.support.hub_runs import digests, run_folder, write


def test_paths_are_cleaned_from_the_copy_and_not_from_the_users_files(tmp_path):
    run = run_folder(tmp_path / "run")
    config = {"_name_or_path": "/data/models/vit", "id2label": {"0": "/m/09x0r", "1": "a/b"}, "cache": ["~/x", "y"]}
    write(run / "model/config.json", json.dumps(config))
    tokenizer = {"name_or_path": str(tmp_path), "is_local": True, "local_files_only": True, "pad_token": "/"}
    write(run / "model/tokenizer_config.json", json.dumps(tokenizer))
    weights = {"w": np.arange(7, dtype=np.float32), "v": np.ones((2, 3), dtype=np.float16)}
    notes = {"format": "pt", "source": "/home/alice/run", "windows": "C:\\Users\\alice", "license": "mit"}
    save_file(weights, run / "model/model.safetensors", metadata=notes)
    before = digests(run)
    with prepare_folder(run) as staged:
        read = {n: json.loads((staged.folder / n).read_text()) for n in ("config.json", "tokenizer_config.json")}
        assert read["config.json"] == {"id2label": config["id2label"], "cache": ["y"]}
        assert read["tokenizer_config.json"] == {"pad_token": "/"}
        with safe_open(staged.folder / "model.safetensors", "np") as file:
            assert file.metadata() == {"format": "pt"}
        copied = load_file(staged.folder / "model.safetensors")
    assert all(np.array_equal(copied[name], weights[name]) for name in weights)
    assert digests(run) == before


def test_groups_of_an_attribute_are_numbered_in_a_published_report(tmp_path):
    information = {"value": 0.1, "counts": {"alice": 3, "bob": 5}}
    report = {
        "groups": {"original": {"alice": 0.5, "bob": 0.7}, "unlearned": {"alice": 0.6, "bob": 0.8}},
        "group_intervals": {"original": {"alice": [0.4, 0.6], "bob": [0.6, 0.8]}},
        "information": {"original": information},
        "run": {"attribute": "speaker"},
    }
    found = without_values(report)
    assert "alice" not in json.dumps(found)
    assert found["groups"]["unlearned"] == {"group 1": 0.6, "group 2": 0.8}
    assert found["group_intervals"]["original"] == {"group 1": [0.4, 0.6], "group 2": [0.6, 0.8]}
    assert found["information"]["original"] == {"value": 0.1, "counts": {"group 1": 3, "group 2": 5}}
    sets = {"information": {"original": {"counts": {"forget": 3, "retain": 5}}}, "run": {}}
    assert without_values(sets) == sets
    assert without_values({"groups": [], "run": None}) == {"groups": [], "run": None}
    run = run_folder(tmp_path / "run")
    write(run / "report.json", json.dumps(report))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "report.json").read_text()) == found


@pytest.mark.parametrize(
    "value",
    [
        "/home/alice/x", "C:\\data", "D:/Users/alice/vocab.txt", "~/model", "file:///tmp/x", "'/mnt/disk/y'", "/workspace/z",
        "/nfs/alice.smith/bert", "/Volumes/alice/x", "/gpfs/users/alice/my runs", "\\\\server\\alice\\m", "../alice/secret",
        "/home/alice",
    ],
)  # fmt: skip
def test_paths_of_any_machine_are_found(value):
    assert without_paths({"a": value, "b": [value, 1], "c": {"d": value}, value: 1}) == {"b": [1], "c": {}}


@pytest.mark.parametrize(
    "path", ["/tmp/x", "/nfs/é.smith/run-1/", "D:/a/b", "~/x", "file:///tmp/x", "\\\\nas\\alice\\m"]
)
def test_within_a_text_a_path_becomes_local(path):
    for text in ("loaded from {}", "see '{}'!", "(in {})"):
        assert without_paths({"a": [text.format(path)]}) == {"a": [text.format("local")]}


@pytest.mark.parametrize("value", ["/m/09x0r", "a/b", "https://huggingface.co/data/x", "N/A", "he/she", "/"])
def test_a_value_that_only_looks_like_a_path_stays(value):
    assert without_paths({"label": value}) == {"label": value}


@pytest.mark.parametrize("label", ["mail in /data/ folder", "/m/09x0r", "/home/alice/x", "C:\\data", "a/b"])
def test_a_class_may_be_called_anything(tmp_path, label):
    run = run_folder(tmp_path / "run")
    config = {"model_type": "vit", "id2label": {"0": "cat", "1": label}, "label2id": {"cat": 0, label: 1}}
    write(run / "model/config.json", json.dumps(config))
    described = {"forgotten_labels": [label], "request": f"class '{label}'", "recipe": {"forget_class": [label]}}
    write(run / "report.json", json.dumps({"run": described, "groups": {"original": {label: 1.0}}}))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "config.json").read_text()) == config
        assert json.loads((staged.folder / "report.json").read_text())["run"] == described


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_run_folder_is_found_in_any_json_escaping(tmp_path, ascii_only):
    run = run_folder(tmp_path / "josé" / "run")
    config = {"model_type": "vit", "note": f"trained in;{run}/model", str(run): 1, "at": [f"in_{run}"]}
    write(run / "model/config.json", json.dumps(config, ensure_ascii=ascii_only))
    with pytest.raises(ValueError, match=r"config\.json holds a path"), prepare_folder(run):
        pass
    write(run / "model/config.json", json.dumps({**config, "at": []}, ensure_ascii=ascii_only))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "config.json").read_text()) == {
            "model_type": "vit",
            "note": "trained in;local",
            "at": [],
        }


def test_of_a_safetensors_header_only_the_format_is_published(tmp_path):
    run, weights = run_folder(tmp_path / "run"), {"w": np.arange(5, dtype=np.float32)}
    notes = {"format": "pt", "hub_token": "hf_" + "A" * 34, "src": "/nfs/alice.smith/run", "rows": "17,99"}
    save_file(weights, run / "model/model.safetensors", metadata=notes)
    with prepare_folder(run) as staged, safe_open(staged.folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert np.array_equal(file.get_tensor("w"), weights["w"])


@pytest.mark.parametrize("text", ["made in {tmp}/out", "token hf_" + "aB3" * 12, "see {cwd}/recipes/x.yaml"])
def test_a_text_with_a_path_of_this_machine_or_a_token_is_refused(tmp_path, text):
    run = run_folder(tmp_path / "run")
    said = text.format(tmp=tmp_path, cwd=os.getcwd())
    write(run / "README.md", said)
    with (
        pytest.raises(ValueError, match=r"README\.md holds a path of this machine or a token") as error,
        prepare_folder(run),
    ):
        pass
    assert said not in str(error.value)
    assert not list(run.glob(".push-*"))

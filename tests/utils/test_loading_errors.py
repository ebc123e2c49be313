"""What is looked for on this machine before the Hub is asked, and errors of loading that name the argument."""

import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetGenerationError
from safetensors import SafetensorError

from hf_unlearn.utils.loading_errors import loading, local, located


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "train.csv").write_text("text,label\n")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    return tmp_path


@pytest.mark.parametrize("name", ["pets", "./pets", "org/name", "bert-base-uncased", "org/name@v1", "train.csv"])
def test_what_is_here_or_may_be_on_the_hub_is_kept(here, name):
    assert located(name, "model") == name


def test_a_file_or_a_folder_of_this_machine(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "key.pem").write_text("")
    assert local("key.pem", "--key").is_file()
    assert local("~/key.pem", "--key") == here / "key.pem"
    assert local(here, "--folder", folder=True) == here
    for name, folder, message in (
        ("kee.pem", False, "`--key='kee.pem'`: there is no such file .*Did you mean 'key.pem'"),
        (".", False, "is a folder, and a file is needed"),
        ("key.pem", True, "is a file, and a folder is needed. Correct"),
        ("", True, "there is no such file or folder"),
        ("x" * 300, False, "there is no such file or folder"),
    ):
        with pytest.raises(ValueError, match=message):
            local(name, "--key", folder)


def test_a_tilde_is_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert located("~/pets", "model") == str(here / "pets")
    with pytest.raises(
        ValueError, match=re.escape(f"`model='~/petz'`: there is no such file or folder. Did you mean '{here}/pets'?")
    ):
        located("~/petz", "model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./petss", "where the command was started. Did you mean './pets'?"),
        ("pets/", None),
        ("petss/", "Did you mean 'pets'?"),
        ("../nothing/model", "there is no such file or folder in"),
        ("/nothing/model", "`model='/nothing/model'`: there is no such file or folder. Correct the path"),
        ("a/b/c", "name a repository of the Hub as 'org/name'"),
        ("trian.csv", "Did you mean 'train.csv'?"),
        ("C:\\models\\bert", "there is no such file or folder"),
        ("Größe/ß", "there is no such file or folder"),
        ("my model", "there is no such file or folder"),
        ("org/name:train", "there is no such file or folder"),
        ("https://huggingface.co/org/name", "an address cannot be loaded. Download it first"),
        ("org--name/..", "there is no such file or folder"),
        ("gone", "is a link to"),
        ("x" * 5000, "there is no such file or folder"),
        ("a\0b", "there is no such file or folder"),
        ("", "there is no such file or folder"),
    ],
)
def test_what_can_only_be_a_path_is_refused_at_once(here, name, message):
    if message is None:
        assert located(name, "model") == name
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        located(name, "model")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x"), "`model`: KeyError: 'x'"),
        (RuntimeError("two\nlines"), "`model`: RuntimeError: two lines"),
        (OSError("no file"), "`model`: no file"),
        (ValueError("bad"), "`model`: bad"),
        (ValueError("`dataset`: bad"), "`dataset`: bad"),
        (AssertionError(), "`model`: AssertionError: "),
        (RecursionError("deep"), "`model`: RecursionError: deep"),
        (MemoryError(), "`model`: there is not enough memory to load it."),
        (
            SafetensorError("header"),
            "`model`: A file of weights is damaged or incomplete: header. Copy or download it again.",
        ),
        (DatasetGenerationError("row"), "`model`: a file cannot be read (row). Correct it, or copy it again."),
        (
            ValueError("Failed to parse string: 'my secret' as a scalar of type int64"),
            "`model`: Failed to parse string: … as a scalar of type int64",
        ),
        (
            ValueError("Could not convert 'my secret' with type str: tried to convert to int64"),
            "`model`: Could not convert … with type str: tried to convert to int64",
        ),
        (ValueError("could not convert string to float: 'my secret'"), "`model`: could not convert string to float: …"),
        (ValueError("Expected 2 columns, got 3: my,dear,secret"), "`model`: Expected 2 columns, got …"),
        (ValueError("Float value 2.500000 was truncated"), "`model`: Float value … was truncated"),
        (RuntimeError("x" * 5000), "`model`: RuntimeError: " + "x" * 499 + "…"),
    ],
)
def test_any_error_names_its_argument(error, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), loading("model"):
        raise error


def test_a_name_that_is_neither_here_nor_on_the_hub_says_both(here):
    expected = f"`dataset='petss'`: there is no such file or folder in {here}, where the command was started. Did you mean 'pets'? "
    message = re.escape(f"{expected}The Hub did not give it either: offline")
    with pytest.raises(ValueError, match=message), loading("dataset", "petss"):
        raise ConnectionError("offline")
    with pytest.raises(ValueError, match=r"^`dataset`: offline$"), loading("dataset", "pets"):
        raise ConnectionError("offline")


def test_an_interrupt_is_no_error_of_loading():
    with pytest.raises(KeyboardInterrupt), loading("model"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([{"a": 1}, {"a": None}, {"a": "x"}], [], "train.jsonl, line 3: column `a` holds a text, and a number before."),
        (
            [{"a": [1]}],
            [{"a": ["x"]}],
            "test.jsonl, line 1: column `a` holds a list of text, and a list of number before.",
        ),
        ([{"a": 1}], [{"a": 0.5}], "test.jsonl, line 1: column `a` holds a number, and a whole number before."),
        (
            [{"a": 1, "b": {}}],
            [{"a": 2, "b": True}],
            "test.jsonl, line 1: column `b` holds true or false, and a mapping before.",
        ),
        ([{"a": 1}], [{"a": 2}], "TypeError: Couldn't cast"),
    ],
)
def test_a_value_of_another_kind_in_json_lines_is_named_and_not_quoted(tmp_path, train, test, message):
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"a": \n')
    with pytest.raises(ValueError, match=f"^`dataset`: {re.escape(message)}"), loading("dataset", str(tmp_path)):
        raise TypeError("Couldn't cast")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"a": [1], "b": ["x"]}, {"a": [1.5], "b": [["x"]]}, "test.parquet: column `b` holds list<"),
        ({"a": [1]}, {"a": [1.5]}, "test.parquet: column `a` holds double, and int64 before."),
        ({"a": [1], "b": [2]}, {"a": [1], "c": [2]}, "a file lacks `b` and also has `c`, unlike the files before it."),
        ({"a": [1]}, {"a": []}, "a Parquet file has no rows"),
    ],
)
def test_a_column_in_which_parquet_files_differ_is_named(tmp_path, monkeypatch, train, test, message):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, columns in (("train", train), ("test", test)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    if "column" in message:
        with pytest.raises(ValueError, match=f"^`dataset`: {re.escape(message)}"), loading("dataset", str(tmp_path)):
            raise TypeError("Couldn't cast")
    else:
        with pytest.raises(ValueError, match=f"^`dataset`: {re.escape(message)}"), loading("dataset", str(tmp_path)):
            datasets.load_dataset(str(tmp_path))

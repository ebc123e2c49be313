import gzip

import datasets
import numpy as np
import pytest
import sklearn.datasets

from hf_unlearn.data.loading import load_digits, load_rows, load_source


@pytest.fixture
def rows():
    return datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_files_are_read_by_their_suffix(rows, tmp_path, suffix):
    write = {"json": rows.to_json, "jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[suffix]
    write(str(tmp_path / f"rows.{suffix}"))
    assert load_rows(str(tmp_path / f"rows.{suffix}"), "rows", "train").to_dict() == rows.to_dict()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "rows.txt").write_text("a")
    with pytest.raises(
        ValueError, match=r"`rows=.*rows.txt'` is of an unknown kind. Known: .json, .jsonl, .ndjson, .csv, "
    ):
        load_rows(str(tmp_path / "rows.txt"), "rows", "train")


def test_a_folder_gives_the_split_that_is_named_or_wanted(rows, tmp_path):
    folder = str(tmp_path / "data")
    rows.to_parquet(f"{folder}/train.parquet")
    rows.select([2]).to_parquet(f"{folder}/test.parquet")
    assert len(load_rows(folder, "rows", "train")) == 3
    assert len(load_rows(folder, "rows", "test")) == 1
    assert len(load_rows(f"{folder}:test", "rows", "train")) == 1
    with pytest.raises(ValueError, match=r"has no split 'valid'; it has train, test\."):
        load_rows(f"{folder}:valid", "rows", "train")
    with pytest.raises(ValueError, match=r"has no split 'validation'; it has train, test\."):
        load_rows(folder, "rows", "validation")


@pytest.mark.parametrize("here", [".", "./", "../data"])
def test_a_folder_may_be_the_one_that_the_user_stands_in(rows, tmp_path, monkeypatch, here):
    (tmp_path / "data").mkdir()
    rows.to_csv(tmp_path / "data" / "train.csv")
    monkeypatch.chdir(tmp_path / "data")
    assert len(load_source(here, "dataset")["train"]) == len(rows)


def test_a_single_split_is_loaded_whatever_its_name(rows, tmp_path):
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    assert len(load_rows(str(tmp_path / "data"), "rows", "train")) == 3


def test_digits_are_all_of_scikit_learn_in_two_disjoint_splits():
    splits = load_digits()
    assert [len(splits[name]) for name in ("train", "test")] == [1347, 450]
    served = sorted(
        (row["label"], *np.asarray(row["image"]).flatten().tolist()) for part in splits.values() for row in part
    )
    known = sklearn.datasets.load_digits()
    scaled = (known.images * 255 / 16).astype(np.uint8).reshape(-1, 64)
    assert served == sorted((int(label), *image) for label, image in zip(known.target, scaled.tolist(), strict=True))


# --- every kind of source ---------------------------------------------------------------------------------------------


def test_a_file_is_the_split_train_whatever_its_name(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows.to_csv(tmp_path / "my [rows] ?.CSV", index=False)
    plain = (tmp_path / "my [rows] ?.CSV").read_bytes()
    (tmp_path / "rows.tsv").write_bytes(plain.replace(b",", b"\t"))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(plain))
    for name in ("my [rows] ?.CSV", "rows.tsv", "bom.csv", "rows.csv.gz"):
        loaded = load_source(f"~/{name}", "dataset")
        assert {split: part.to_dict() for split, part in loaded.items()} == {"train": rows.to_dict()}, name


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_of_save_to_disk_keep_their_splits_apart(rows, tmp_path, streaming):
    both = datasets.DatasetDict(train=rows.with_format("torch"), test=rows.select([2]))
    both.save_to_disk(tmp_path / "both")
    rows.save_to_disk(tmp_path / "one")
    loaded = load_source(str(tmp_path / "both"), "dataset", streaming=streaming)
    assert {name: list(part) for name, part in loaded.items()} == {"train": list(rows), "test": list(rows)[2:]}
    alone = load_source(str(tmp_path / "one"), "dataset", streaming=streaming)
    assert {name: list(part) for name, part in alone.items()} == {"train": list(rows)}


def spoil(folder, name, content):
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "text,label\nü,1\n".encode("latin-1"), "`dataset`: a file cannot be read .*Save it as UTF-8"),
        ("train.csv", b"text;label\na;1\n", "`dataset`: the columns of the file are separated by ';'"),
        ("train.csv", b"", "`dataset`: "),
        ("train.json", b'{"text": ', "`dataset`: a file cannot be read"),
        ("train.json", b"[" * 100_000, "`dataset`: "),
        ("train.parquet", b"PAR1", "`dataset`: "),
        ("data.py", b"import datasets\n", "`dataset`: "),
        ("train.xlsx", b"PK", "`dataset`: "),
        ("dataset_dict.json", b"{}", "`dataset`: KeyError"),
        ("state.json", b"{", "`dataset`: "),
    ],
)
def test_whatever_is_wrong_with_files_names_the_argument(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_source(str(spoil(tmp_path / "data", name, content)), "dataset")


def test_an_empty_folder_a_missing_configuration_and_a_typo_name_the_argument(rows, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`dataset`: "):
        load_source(str(tmp_path / "empty"), "dataset")
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="`dataset_config='de'`: BuilderConfig 'de' not found"):
        load_source(str(tmp_path / "data"), "dataset", config="de")
    with pytest.raises(ValueError, match=r"`rows=.*dat'`: there is no such file or folder\. Did you mean .*data'\?"):
        load_rows(str(tmp_path / "dat"), "rows", "train")


def test_a_configuration_that_is_not_there_is_named(rows, tmp_path):
    rows.to_json(str(tmp_path / "rows.jsonl"))
    rows.save_to_disk(str(tmp_path / "saved"))
    for source in ("rows.jsonl", "saved"):
        with pytest.raises(ValueError, match=r"^`dataset_config='x'`: .* has no configurations. Leave it out"):
            load_source(str(tmp_path / source), "dataset", "x")
    (tmp_path / "folder").mkdir()
    rows.to_json(str(tmp_path / "folder" / "train.jsonl"))
    with pytest.raises(ValueError, match=r"^`dataset_config='x'`: .*Available: \['default'\]"):
        load_source(str(tmp_path / "folder"), "dataset", "x")


def test_the_digits_are_rows_too():
    rows = load_rows("digits:test", "forget", "train")
    assert (len(rows), rows.features["label"].num_classes) == (450, 10)
    with pytest.raises(ValueError, match="has no split 'eval'; it has train, test"):
        load_rows("digits:eval", "forget", "train")

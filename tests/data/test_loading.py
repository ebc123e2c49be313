import datasets
import numpy as np
import pytest
import sklearn.datasets

from hf_unlearn.data.loading import load_digits, load_rows


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
        ValueError, match=r"`rows=.*rows.txt'` is of an unknown kind. Known: .json, .jsonl, .csv, .parquet"
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

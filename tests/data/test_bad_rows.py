"""What is no data set, and rows that cannot be read, are refused by argument, row and column."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from hf_unlearn.data.bad_rows import (
    CellError,
    check_kind,
    first_row,
    in_row,
    naming_row,
    read_named,
    read_stream,
    undecoded,
)
from hf_unlearn.data.sampling import draw
from tests.support.data import image_data, text_data

TABLE = {"text": ["w1", "w2"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (datasets.DatasetDict(train=text_data(2), test=text_data(2)), r"splits \(train, test\).*`dataset\['train'\]`"),
        (datasets.IterableDatasetDict(train=text_data(2).to_iterable_dataset()), r"splits \(train\)"),
        ({"a": text_data(2)}, r"splits \(a\)"),
        (TABLE, "dictionary.*Dataset.from_dict"),
        ("imdb", "a name.*load_dataset"),
        (pd.DataFrame(TABLE), "DataFrame.*from_pandas"),
        (text_data(2).data.table, "Table.*from_list"),
        (torch.utils.data.DataLoader(text_data(2)), "data loader.*`loader.dataset`"),
        (7, "is a int"),
    ],
)
def test_what_has_no_rows_is_refused_with_the_remedy(data, match):
    with pytest.raises(ValueError, match=rf"^`forget_dataset` .*{match}"):
        check_kind(data, "forget_dataset")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            [(torch.zeros(3, 4, 4), 1)],
            r"is a tuple.*\[\{'image': picture, 'label': label\} for picture, label in data\]",
        ),
        (torch.utils.data.TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2)), "is a tuple.*'image'"),
        ([["w1 w2", 1]], "is a list"),
        (["w1 w2"], "is a str.*'text'"),
        ([torch.zeros(3, 4, 4)], "is a Tensor"),
        (np.zeros((2, 3)), "is a ndarray"),
        ([("a", "b", 1)], "is a tuple.*'text'"),
    ],
)
def test_rows_without_names_are_refused(data, match):
    with pytest.raises(ValueError, match=rf"^`test_dataset`, row 0: it {match}"):
        first_row(data, "test_dataset")


def test_an_empty_set_is_refused_and_a_whole_row_returned():
    with pytest.raises(ValueError, match="`test_dataset` is empty"):
        first_row([], "test_dataset")
    assert first_row(text_data(2), "test_dataset")["label"] == 0


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise KeyError("lost")
        return {"text": "w1", "label": 0}


def test_a_row_that_cannot_be_read_is_named():
    assert len(read_named(Broken(), [0, 1, 3], "x")) == 3
    with pytest.raises(ValueError, match=r"^`retain_dataset`, row 2: it cannot be read: KeyError 'lost'"):
        read_named(Broken(), [0, 1, 2, 3], "retain_dataset")


def damaged(folder, row=3):
    """Pictures in files, one of which is cut."""
    files = []
    for index, example in enumerate(image_data(6)):
        files.append(folder / f"photo{index}.png")
        example["image"].save(files[-1])
    files[row].write_bytes(files[row].read_bytes()[:200])
    return datasets.Dataset.from_dict({"image": [str(f) for f in files]}).cast_column("image", datasets.Image())


def test_a_damaged_picture_is_named_by_row_column_and_file(tmp_path):
    data = damaged(tmp_path)
    match = "^`forget_dataset`, row {}, column `image`: it cannot be read: .*photo3.png"
    with pytest.raises(ValueError, match=match.format(3)):
        read_named(data, list(range(6)), "forget_dataset")
    with pytest.raises(ValueError, match=match.format(1)):
        read_named(draw(data.select([0, 3]), 5, 0), [0, 1], "forget_dataset")
    with pytest.raises(ValueError, match=match.format(0)):
        first_row(data.select([3]), "forget_dataset")


def test_undecoded_rows_hold_files_and_know_no_transform(tmp_path):
    data = damaged(tmp_path).with_transform(lambda batch: 1 / 0)
    assert undecoded(data)[3]["image"]["path"].endswith("photo3.png")
    rows = [{"text": "w1"}]
    assert undecoded(rows) is rows


def test_an_error_says_where():
    assert str(in_row("test_dataset", 17, CellError("it is empty.", "text"))) == (
        "`test_dataset`, row 17, column `text`: it is empty."
    )
    assert str(in_row("test_dataset", 17, ValueError("no."))) == "`test_dataset`, row 17: no."


def test_any_exception_while_a_row_is_prepared_names_the_row():
    with pytest.raises(ValueError, match=r"^`x`, row 3: KeyError 'input_ids'$"), naming_row("x", 3):
        raise KeyError("input_ids")
    with pytest.raises(MemoryError), naming_row("x", 3):
        raise MemoryError


@pytest.mark.parametrize("filtered", [False, True])
def test_a_damaged_row_of_a_stream_is_named(tmp_path, filtered):
    stream = damaged(tmp_path).add_column("label", [0] * 6).to_iterable_dataset()
    if filtered:
        stream = stream.filter(lambda label: True, input_columns=["label"])
    read = []
    with pytest.raises(ValueError, match=r"^`retain_dataset`, row 3, column `image`: it cannot be read"):
        read.extend(read_stream(stream, "retain_dataset"))
    with pytest.raises(ValueError, match=r"^`retain_dataset`, row 3, column `image`: it cannot be read"):
        draw(stream, 6, 0)
    assert len(draw(stream, 3, 0)) == 3
    assert list(read_stream([1, 2], "x")) == [1, 2]


def test_a_column_that_is_no_picture_is_named_too():
    texts = pa.array([b"w1", b"w\xbe1"], pa.binary()).view(pa.string())
    data = datasets.Dataset(pa.table({"label": [0, 1], "text": texts}))
    with pytest.raises(ValueError, match=r"^`x`, row 1, column `text`: it cannot be read: 'utf-8' codec"):
        read_named(data, [0, 1], "x")

"""A stream is split into the same rows as the whole data set, and its images are not decoded."""

import datasets
import pytest
from datasets import load_dataset

from hf_unlearn import (
    ForgetRequest,
)
from hf_unlearn.data.streams import split_stream

pytestmark = pytest.mark.slow


def load_stream(disk):
    return load_dataset(str(disk / "parquet"), split="train", streaming=True)


def test_a_stream_is_split_as_the_whole_set_is(disk):
    whole = load_dataset(str(disk / "parquet"), split="train")
    for request in (
        ForgetRequest(label="2"),
        ForgetRequest(column="user", values=["user-3", "user-50", "user-7"]),
        ForgetRequest(label=[1, 3], column="user", values=["user-3", "user-50", "user-5"]),
    ):
        expected, split = request.split(whole), split_stream(request, load_stream(disk))
        assert split.forget_indices.tolist() == expected.forget_indices.tolist()
        assert split.forget["user"][:] == expected.forget["user"][:]
        assert split.forget[0]["image"].size == (16, 16)
        first = [row["user"] for row in split.retain]
        split.retain.set_epoch(1)
        second = [row["user"] for row in split.retain]
        assert sorted(first) == sorted(second) == sorted(expected.retain["user"])
        assert first != second
    with pytest.raises(ValueError, match="selects all 96 rows"):
        split_stream(ForgetRequest(label=[0, 1, 2, 3]), load_stream(disk))
    with pytest.raises(ValueError, match="by `label` and by `column`"):
        split_stream(ForgetRequest(indices=[1]), load_stream(disk))


def test_rows_are_not_decoded_to_be_split(disk, monkeypatch):
    stream = load_stream(disk)
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("decoded"))
    assert len(split_stream(ForgetRequest(label=1), stream).forget) == 24

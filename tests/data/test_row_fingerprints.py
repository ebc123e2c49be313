"""A fingerprint depends on the rows, their order and their content, and on nothing else."""

import datetime
import decimal
import threading

import datasets
import pytest

from hf_unlearn.data.overlap import check_overlap, fingerprint
from hf_unlearn.data.sampling import draw
from tests.support.data import data_for, text_data


def test_a_fingerprint_is_of_the_rows_and_of_nothing_else(tmp_path):
    rows = text_data(20)
    first = fingerprint(rows)
    rows.save_to_disk(tmp_path / "rows")
    same = (
        datasets.load_from_disk(tmp_path / "rows"),
        datasets.concatenate_datasets([rows.select(range(7)), rows.select(range(7, 20))]),
        datasets.concatenate_datasets([text_data(5), rows]).select(range(5, 25)),
    )
    assert [fingerprint(other) for other in same] == [first] * 3
    edited = rows.map(lambda row, i: {"text": row["text"] + ("." if i == 19 else "")}, with_indices=True)
    others = (rows.select(range(19)), rows.select([*range(19), 18]), edited, rows.rename_column("text", "sentence"))
    assert len({first, *map(fingerprint, others)}) == 5
    assert fingerprint(rows.to_iterable_dataset()) is None
    assert fingerprint(data_for("vit", 8)) == fingerprint(data_for("vit", 8)) != fingerprint(data_for("vit", 8, seed=1))


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2020, 1, 2, 3), datetime.date(2020, 1, 2), datetime.time(3, 4), datetime.timedelta(hours=5),
        decimal.Decimal("1.5"), b"bytes", True, 2.5, None, [1, 2], {"a": "b"}, [[1.5], []],
    ],
    ids=repr,
)  # fmt: skip
def test_rows_of_any_type_have_a_fingerprint_and_can_be_compared(value):
    rows = datasets.Dataset.from_dict({"when": [value, value, None], "n": [0, 1, 2]})
    assert fingerprint(rows) == fingerprint(rows.select(range(3))) != fingerprint(rows.select([0, 1, 1]))
    with pytest.raises(ValueError, match="overlap"):
        check_overlap(rows.select([0]), rows)


def test_the_order_of_rows_counts():
    rows = text_data(12)
    assert len({fingerprint(rows), fingerprint(rows.shuffle(seed=1)), fingerprint(rows.shuffle(seed=2))}) == 3
    assert fingerprint(rows.select(range(11, -1, -1))) == fingerprint(rows.select(range(11, -1, -1)))


def test_a_folder_of_images_may_be_moved_and_not_be_replaced(tmp_path):
    from PIL import Image

    def found(folder):
        paths = sorted(map(str, folder.glob("*.png")))
        return fingerprint(datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image()))

    (tmp_path / "a").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / "a" / f"{i}.png")
    first = found(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert found(tmp_path / "b") == first
    Image.effect_noise((8, 8), 50).save(tmp_path / "b" / "1.png")
    assert found(tmp_path / "b") != first


def test_drawing_from_a_stream_that_cannot_be_copied_keeps_its_position():
    class Held:
        """Like a connection or an open file, this cannot be copied."""

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, row):
            return row

    stream = text_data(8).to_iterable_dataset().map(Held())
    stream.set_epoch(3)
    assert [row["text"] for row in draw(stream, 4, 0)] == text_data(8)["text"][:4]
    assert stream.epoch == 3

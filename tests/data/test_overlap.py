"""Rows that are in both sets are counted in every kind of column, exactly or from a sample."""

import datasets
import numpy as np
import pytest

from hf_unlearn.data import overlap
from hf_unlearn.data.overlap import check_overlap, seen_rows
from tests.support.data import image_data, pixel_data, text_data


def test_overlap_is_an_error_and_a_few_duplicates_are_a_warning(caplog):
    rows = datasets.Dataset.from_dict({"id": range(30)})
    with pytest.raises(ValueError, match="`forget_dataset` and `retain_dataset` overlap: 10 of 10"):
        check_overlap(rows.select(range(10)), rows)
    check_overlap(rows.select(range(10)), rows.select(range(9, 30)))
    assert "1 of 10 rows" in caplog.text
    caplog.clear()
    check_overlap(rows.select(range(10)), rows.select(range(10, 30)))
    assert not caplog.text


def with_copies(data, copies):
    """The first half of `data`, and its second half with `copies` rows of the first half in it."""
    half = len(data) // 2
    second = data.select([*range(copies), *range(half + copies, 2 * half)])
    return data.select(range(half)), second


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "pixels", "images", "numpy pixels", "nested"])
def test_common_rows_are_counted_in_every_kind_of_column(kind, caplog):
    data = {
        "text": lambda: text_data(80).add_column("row", range(80)),
        "pixels": lambda: pixel_data(80),
        "numpy pixels": lambda: pixel_data(80).with_format("numpy"),
        "images": lambda: image_data(80),
        "nested": lambda: datasets.Dataset.from_dict(
            {
                "ids": [[i, i + 1][: 1 + i % 2] for i in range(80)],
                "info": [{"a": None if i % 3 else float(i), "b": [str(i)]} for i in range(80)],
                "fixed": np.arange(320).reshape(80, 4).tolist(),
            },
            features=datasets.Features(
                {
                    "ids": datasets.List(datasets.Value("int32")),
                    "info": {"a": datasets.Value("float32"), "b": datasets.List(datasets.Value("string"))},
                    "fixed": datasets.List(datasets.Value("int64"), length=4),
                }
            ),
        ),
    }[kind]()
    for shape in (lambda d: d, lambda d: d.shuffle(seed=1)):
        for copies, found in ((3, "3 of 40"), (0, None)):
            caplog.clear()
            check_overlap(*map(shape, with_copies(data, copies)))
            assert (found is None and not caplog.text) or f"{found} rows to forget" in caplog.text
        with pytest.raises(ValueError, match="overlap: 40 of 40"):
            check_overlap(data.select(range(40)), shape(data))


@pytest.mark.slow
def test_rows_that_differ_in_one_number_are_not_the_same(caplog):
    values = pixel_data(8).with_format("numpy")["pixel_values"][:]
    other = values.copy()
    other[:, 2, 7, 3] = np.nextafter(other[:, 2, 7, 3], np.float32(2))
    features = datasets.Features({"pixel_values": datasets.Array3D((3, 16, 16), "float32")})
    check_overlap(*(datasets.Dataset.from_dict({"pixel_values": v}, features=features) for v in (values, other)))
    assert not caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("copies", [0, 100, 6_000, 10_000])
def test_common_rows_of_large_sets_are_estimated_from_a_sample(copies, caplog):
    data = datasets.Dataset.from_dict({"a": np.arange(30_000)})
    forget, retain = data.select(range(10_000)), data.select(range(10_000 - copies, 30_000 - copies))
    if copies > 5_000:
        with pytest.raises(ValueError, match=r"overlap: about \d+ of 10000") as error:
            check_overlap(forget, retain, limit=4_000)
        text = str(error.value)
    else:
        check_overlap(forget, retain, limit=4_000)
        text = caplog.text
    if copies:
        estimate = int(text.split("about ")[1].split()[0])
        spread = 4 * (copies / (0.4 * 0.2)) ** 0.5
        assert abs(estimate - copies) < spread
    else:
        assert not text


@pytest.mark.slow
def test_heavy_rows_are_read_by_their_bytes(monkeypatch):
    monkeypatch.setattr(overlap, "BYTES", 2**23)
    data = datasets.Dataset.from_dict({"a": [[i] * 1000 for i in range(4_000)]})
    read = []
    monkeypatch.setattr(
        "hf_unlearn.data.overlap._hashable",
        lambda a, real=overlap._hashable: read.append(len(a)) or real(a),
    )
    with pytest.raises(ValueError, match="overlap: about"):
        check_overlap(data, data)
    assert 0 < sum(read) < 2 * 2**23 / 8_000


def test_pictures_in_files_and_in_tables_are_compared_by_their_bytes(tmp_path):
    stored = image_data(12).cast_column("image", datasets.Image(decode=False))
    data = [row["image"]["bytes"] for row in stored]
    for place, numbers in (("seen", range(6)), ("new", range(4, 10))):
        for number in numbers:
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / f"{place}-{number}.png").write_bytes(data[number])
    sides = [datasets.load_dataset("imagefolder", data_dir=tmp_path / p, split="train") for p in ("new", "seen")]
    assert seen_rows(*sides, ["image"]) == (2, True)
    files = [f"x{number}.png" for number in range(6)]
    named = stored.select(range(6)).map(lambda row, i: {"image": {**row["image"], "path": files[i]}}, with_indices=True)
    assert seen_rows(named, stored, ["image"]) == (6, True)


def test_of_large_sets_a_part_is_read_and_the_number_is_an_estimate():
    rows = datasets.Dataset.from_dict({"text": [str(i) for i in range(4000)]})
    found, exact = seen_rows(rows.select(range(1000, 3000)), rows, ["text"], limit=1500)
    assert not exact
    assert 1700 < found <= 2000
    assert seen_rows(rows, rows, ["other"]) == seen_rows([{"text": "1"}], rows, ["text"]) == (0, False)

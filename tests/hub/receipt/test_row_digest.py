"""A row has one digest, wherever it is stored."""

import datetime
from decimal import Decimal
from hashlib import sha256

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_unlearn.hub.receipt.row_digest import row_digest, row_digests
from tests.support.data import image_data, pixel_data, text_data


def digest_of(line):
    return sha256(b"hf_unlearn/row/1\n" + line.encode()).digest()


def test_the_form_of_text_and_numbers_is_written_down():
    row = {"text": "cafe\u0301 <b>", "label": 3, "score": 0.1, "none": None, "age": 41.0, "yes": True, "zero": -0.0}
    line = (
        r'{"age":41,"label":3,"none":null,"score":0.1,"text":"caf\u00e9 <b>","yes":1,"zero":0,"\u00fc":["float","nan"]}'
    )
    assert row_digest({**row, "ü": float("nan")}) == digest_of(line)
    assert row_digest({"u\u0308": -np.float32("nan"), **dict(reversed(row.items()))}) == digest_of(line)


def test_the_form_of_images_arrays_and_the_rest_is_written_down():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    pixels = sha256(bytes([1, 2, 3, 1, 2, 3])).hexdigest()
    assert row_digest({"image": image}) == digest_of(f'{{"image":["image","RGB",[2,1],"{pixels}"]}}')
    numbers = sha256(np.array([[1, 2.5], [0, 4]], "<f8").tobytes()).hexdigest()
    assert row_digest({"x": [[1, 2.5], [-0.0, 4]]}) == digest_of(f'{{"x":["array",[2,2],"{numbers}"]}}')
    raw = sha256(b"raw").hexdigest()
    zone = datetime.timezone(datetime.timedelta(hours=2))
    for value, form in (
        (b"raw", f'["bytes","{raw}"]'),
        ({"bytes": b"raw", "path": "a.wav"}, f'["bytes","{raw}"]'),
        (datetime.datetime(2020, 1, 2, 3, tzinfo=zone), '["time","2020-01-02T01:00:00+00:00"]'),
        (datetime.date(2020, 1, 2), '["time","2020-01-02"]'),
        (datetime.timedelta(minutes=1), '["seconds",60]'),
        (Decimal("1.50"), '["decimal","1.5"]'),
        (["a", None], '["list","a",null]'),
        ([2**60, 1], f'["list",{2**60},1]'),
        ({"b": 1, "a": ["x"]}, '{"a":["list","x"],"b":1}'),
        (float("-inf"), '["float","-inf"]'),
    ):
        assert row_digest({"v": value}) == digest_of(f'{{"v":{form}}}'), value


def test_a_value_without_canonical_form_is_refused():
    with pytest.raises(TypeError, match=r"complex.*Cast the column"):
        row_digest({"x": 1j})


def test_names_that_are_one_name_are_refused():
    """One of the two cells would not count."""
    for row in ({"\u00e9": "x", "e\u0301": "y"}, {"x": {"\u00e9": 1, "e\u0301": 2}}, {"x": {1: "a", "1": "b"}}):
        with pytest.raises(TypeError, match="same name"):
            row_digest(row)


def test_integers_beyond_the_exact_ones_of_floats_count_among_floats():
    big = 2**53
    assert all_differ([[0.5, big], [0.5, big + 1], [0.5, big + 2], [0.5, -big - 1], [0.5, -big - 2]])
    assert all_differ([[[0.5], [2**60]], [[0.5], [2**60 + 1]], [[0.5], np.array([2**60 + 2])]])
    assert all_differ([[2**63, -1], [2**63 + 1, -1], [np.uint64(2**63 + 2), np.int64(-1)]])
    floats = [0.5, 1e300, float("nan"), float(big)]
    assert row_digest({"x": floats}) == row_digest({"x": np.array(floats)})


@pytest.mark.parametrize("suffix", ["tiff", "gif", "png"])
def test_every_page_of_a_picture_counts(tmp_path, suffix):
    stills = [Image.new("L", (4, 4), shade) for shade in (10, 90, 200)]
    names = []
    for number, pages in enumerate(([0], [0, 1], [0, 2], [0, 1, 2])):
        names.append(str(tmp_path / f"{number}.{suffix}"))
        stills[0].save(names[-1], save_all=True, append_images=[stills[p] for p in pages[1:]])
    data = datasets.Dataset.from_dict({"x": names}).cast_column("x", datasets.Image())
    digests = list(row_digests(data))
    assert len(set(digests)) == 4
    assert (
        list(map(row_digest, data))
        == list(map(row_digest, data.cast_column("x", datasets.Image(decode=False))))
        == digests
    )
    picture = Image.open(names[3])
    picture.seek(1)
    assert row_digest({"x": picture}) == row_digest({"x": picture}) == digests[3]
    assert picture.tell() == 1


def all_differ(values):
    digests = [row_digest({"x": value}) for value in values]
    return len(set(digests)) == len(digests)


def test_unlike_values_differ():
    assert all_differ(["1", 1, None, "", "null", [], [1], [[1]], ["1"], {"1": 1}, b"1", float("nan"), [0, 1], [1, 0]])
    numbers = sha256(np.array([1.0]).tobytes()).hexdigest()
    assert all_differ([[1], ["array", [1], numbers], ["list", 1], '["list",1]', [1, None]])
    picture = Image.new("L", (2, 3))
    other = picture.copy()
    other.putpixel((0, 0), 1)
    assert all_differ([picture, other, picture.convert("RGB"), Image.new("L", (3, 2))])
    palettes = []
    for colour in (10, 200):
        palettes.append(Image.new("P", (2, 2)))
        palettes[-1].putpalette([colour] * 768)
    assert all_differ(palettes)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_arrays_lists_and_tensors_of_one_value_are_one(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    wanted = row_digest({"x": array})
    assert wanted == row_digest({"x": array.tolist()}) == row_digest({"x": torch.from_numpy(array)})
    assert wanted == row_digest({"x": np.asfortranarray(array)}) == row_digest({"x": list(array)})
    assert row_digest({"x": array[0, 1]}) == row_digest({"x": 1}) == row_digest({"x": torch.tensor(1.0)})


def stored(data, folder):
    """The same rows from files of each kind that holds them."""
    folder.mkdir()
    data.to_parquet(folder / "rows.parquet")
    yield datasets.load_dataset("parquet", data_files=str(folder / "rows.parquet"), split="train", cache_dir=folder)
    if "text" in data.column_names:
        for kind, write in (("json", data.to_json), ("csv", data.to_csv)):
            write(str(folder / f"rows.{kind}"))
            yield datasets.load_dataset(
                kind, data_files=str(folder / f"rows.{kind}"), split="train", cache_dir=folder / kind
            )


@pytest.mark.parametrize("make", [text_data, pixel_data, image_data])
def test_rows_are_the_same_from_memory_files_and_as_dictionaries(make, tmp_path):
    data = make(9)
    wanted = list(row_digests(data))
    assert len(set(wanted)) == 9
    assert wanted == list(map(row_digest, data)) == list(row_digests(list(data)))
    for loaded in stored(data, tmp_path / "files"):
        assert list(row_digests(loaded)) == wanted
        assert list(map(row_digest, loaded)) == wanted
    shuffled = data.shuffle(seed=1).with_format("torch")
    assert sorted(row_digests(shuffled)) == sorted(wanted)
    if make is not image_data:
        assert sorted(map(row_digest, shuffled)) == sorted(wanted)
    assert list(row_digests(data.with_transform(lambda batch: {"nothing": [0] * len(batch["label"])}))) == wanted


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff"])
def test_an_image_folder_holds_the_rows_that_parquet_holds(tmp_path, suffix):
    rng, files = np.random.default_rng(0), []
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            picture = Image.fromarray(rng.integers(0, 255, (8, 6, 3), dtype=np.uint8))
            files.append(tmp_path / "data" / label / f"{number}.{suffix}")
            picture.save(files[-1])
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "data"), split="train", cache_dir=tmp_path)
    wanted = list(row_digests(folder))
    pictures = [Image.open(f).copy() for f in files]  # a copy has no format: `datasets` would encode a JPEG anew
    in_memory = datasets.Dataset.from_dict(
        {"label": [0, 0, 1, 1], "image": pictures},
        features=datasets.Features({"label": datasets.Value("int8"), "image": datasets.Image()}),
    )
    folder.to_parquet(tmp_path / "rows.parquet")
    parquet = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    undecoded = parquet.cast_column("image", datasets.Image(decode=False))
    assert list(row_digests(in_memory)) == list(row_digests(parquet)) == list(row_digests(undecoded)) == wanted
    assert list(map(row_digest, folder)) == list(map(row_digest, undecoded)) == wanted
    grey = folder.cast_column("image", datasets.Image(mode="L"))
    assert list(row_digests(grey)) == list(map(row_digest, grey)) != wanted


def test_a_photo_counts_as_it_is_shown(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[Image.ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "a.png", exif=turned)
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column("image", datasets.Image())
    shown = row_digest({"image": picture.rotate(-90, expand=True)})
    assert list(row_digests(data)) == [row_digest(data[0])] == [shown]
    assert row_digest({"image": Image.open(tmp_path / "a.png")}) == shown != row_digest({"image": picture})

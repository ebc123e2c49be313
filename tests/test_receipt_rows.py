"""Rows have one digest wherever they come from, and the tree over keyed digests proves one row without telling of others."""

import datetime
import hmac
import json
import random
from decimal import Decimal
from hashlib import sha256

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_unlearn.hub.receipt.forgotten_rows import ForgottenRows, verify_inclusion
from hf_unlearn.hub.receipt.merkle_tree import MerkleTree, leaf_hash, root_of_path
from hf_unlearn.hub.receipt.row_digest import row_digest, row_digests
from tests.support.data import image_data, pixel_data, text_data

# --- the tree ---------------------------------------------------------------------------------------------------------

RFC_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
RFC_ROOTS = [  # the vectors of the Certificate Transparency log's reference implementation, for 0 to 8 leaves
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_rfc_6962(size):
    assert MerkleTree(RFC_LEAVES[:size]).root.hex() == RFC_ROOTS[size]


def tree_hash(leaves):
    """MTH of RFC 6962, 2.1, word for word."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    cut = 1
    while 2 * cut < len(leaves):
        cut *= 2
    return sha256(b"\x01" + tree_hash(leaves[:cut]) + tree_hash(leaves[cut:])).digest()


def audit_path(index, leaves):
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    cut = 1
    while 2 * cut < len(leaves):
        cut *= 2
    if index < cut:
        return [*audit_path(index, leaves[:cut]), tree_hash(leaves[cut:])]
    return [*audit_path(index - cut, leaves[cut:]), tree_hash(leaves[:cut])]


@pytest.mark.parametrize("size", range(1, 18))
def test_every_leaf_of_every_size_is_proven_and_at_no_other_place(size):
    leaves = [bytes([i]) * 3 for i in range(size)]
    tree = MerkleTree(leaves)
    assert tree.root == tree_hash(leaves)
    for index, leaf in enumerate(leaves):
        path = tree.path(index)
        assert path == audit_path(index, leaves)
        assert root_of_path(leaf, index, size, path) == tree.root
        for wrong in (*range(-1, index), *range(index + 1, size + 2)):
            assert root_of_path(leaf, wrong, size, path) != tree.root
        assert root_of_path(leaf, index, size, [*path, tree.root]) is None
        assert not path or root_of_path(leaf, index, size, path[:-1]) != tree.root


def test_a_node_is_no_leaf():
    left, right = b"left", b"right"
    tree = MerkleTree([left, right])
    assert root_of_path(leaf_hash(left) + leaf_hash(right), 0, 1, []) != tree.root


# --- the canonical form -----------------------------------------------------------------------------------------------


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


# --- proofs -----------------------------------------------------------------------------------------------------------


def receipt_of(forgotten):
    return {
        "request": {"id": forgotten.request},
        "forgotten_rows": {"rows": len(forgotten.leaves), "root": forgotten.tree.root.hex()},
    }


@pytest.mark.parametrize("size", range(1, 18))
def test_every_row_is_proven_and_no_other(size):
    data, others = text_data(17 + size, seed=3).map(lambda r, i: {**r, "i": i}, with_indices=True).select, range(17)
    rows, outside = data(range(17, 17 + size)), data(others)
    forgotten = ForgottenRows.commit(rows)
    receipt = receipt_of(forgotten)
    assert forgotten.leaves == sorted(forgotten.leaves)
    assert len(forgotten.leaves) == size
    for row in rows:
        proof = json.loads(json.dumps(forgotten.prove(row)))
        assert forgotten.contains(row)
        assert verify_inclusion(row, proof, receipt)
        assert not any(verify_inclusion(other, proof, receipt) for other in outside.select(range(3)))
    assert [forgotten.prove(row) for row in outside] == [None] * 17


def test_forged_proofs_are_rejected():
    data = text_data(13).map(lambda r, i: {**r, "i": i}, with_indices=True)
    forgotten = ForgottenRows.commit(data.select(range(1, 13)))
    receipt, row = receipt_of(forgotten), data[5]
    proof, foreign = forgotten.prove(row), forgotten.prove(data[6])
    assert verify_inclusion(row, proof, receipt)
    rng = random.Random(0)
    for name, value in (("row_key", proof["row_key"]), *((i, s) for i, s in enumerate(proof["path"]))):
        for _ in range(8):
            raw = bytearray(bytes.fromhex(value))
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path = [raw.hex() if i == name else s for i, s in enumerate(proof["path"])]
            forged = {**proof, "path": path} if isinstance(name, int) else {**proof, name: raw.hex()}
            assert not verify_inclusion(row, forged, receipt)
    for change in (
        {"index": proof["index"] ^ 1},
        {"index": proof["index"] + len(forgotten.leaves)},
        {"index": -1},
        {"index": str(proof["index"])},
        {"path": proof["path"][:-1]},
        {"path": [*proof["path"], proof["path"][-1]]},
        {"path": [f"{s}00" for s in proof["path"]]},
        {"path": "00"},
        {"path": None},
        {"row_key": proof["row_key"] + "00"},  # HMAC pads keys with zeros
        {"row_key": foreign["row_key"]},
        {"row_key": "no hex"},
        {"request": "other"},
        {"schema": "hf_unlearn/row_proof/2"},
    ):
        assert not verify_inclusion(row, {**proof, **change}, receipt), change
    assert not verify_inclusion(data[0], proof, receipt)
    assert not verify_inclusion(row, foreign, receipt)
    assert not verify_inclusion(row, {}, receipt)
    again = ForgottenRows.commit(data.select(range(1, 13)), forgotten.request)
    assert not verify_inclusion(row, proof, receipt_of(again)), "another key, another root"


def test_the_key_of_a_lone_row_has_one_length():
    """HMAC pads a short key with zeros and hashes a long one: other keys of the same leaf, but no proofs."""
    forgotten = ForgottenRows.commit(text_data(1))
    proof = forgotten.prove(text_data(1)[0])
    assert proof["path"] == []
    assert verify_inclusion(text_data(1)[0], proof, receipt_of(forgotten))
    longer = {**proof, "row_key": proof["row_key"] + "00"}
    assert not verify_inclusion(text_data(1)[0], longer, receipt_of(forgotten))


def test_copies_count_each_and_the_tree_does_not_tell():
    data = text_data(4)
    twice = ForgottenRows.commit([*data, data[0], data[0]])
    assert len(twice.leaves) == 6 == len(set(twice.leaves))
    assert verify_inclusion(data[0], twice.prove(data[0]), receipt_of(twice))


def test_a_proof_tells_of_its_row_alone():
    """With the proof of one row, guesses of the others still match nothing that was shown or published."""
    data = text_data(8)
    forgotten = ForgottenRows.commit(data)
    proof = forgotten.prove(data[0])
    assert forgotten.key.hex() not in json.dumps(proof)
    shown = {*proof["path"], proof["row_key"], forgotten.tree.root.hex()}
    opened = bytes.fromhex(proof["row_key"])
    for row in data:
        digest = row_digest(row)
        tried = [hmac.digest(opened, m, "sha256") for m in (digest, b"row" + digest + bytes(8), b"")]
        tried += [hmac.digest(k, digest, "sha256") for k in tried]
        leaves = {leaf_hash(t).hex() for t in (*tried, digest)} | {t.hex() for t in tried}
        assert not (shown & leaves) or row == data[0]


def test_the_root_needs_the_key_and_the_order_says_nothing():
    data = text_data(40)
    first, second = ForgottenRows.commit(data), ForgottenRows.commit(data)
    assert first.request != second.request
    assert not set(first.leaves) & set(second.leaves)
    places = [[f.prove(row)["index"] for row in data.select(range(10))] for f in (first, second)]
    assert places[0] != places[1]
    same = ForgottenRows.commit(data.select(range(39, -1, -1)), first.request, first.key)
    assert same.leaves == first.leaves


def test_bad_ids_and_keys_are_refused():
    for request in ("", "user 7", "../x", "a" * 65, "<b>"):
        with pytest.raises(ValueError, match="`request`"):
            ForgottenRows.commit(text_data(2), request)
    with pytest.raises(ValueError, match="`key`"):
        ForgottenRows.commit(text_data(2), key=b"short")

"""What strangers hand in with a receipt: broken files end with 2 and a reason, and no row opens a file of this machine."""

import http.server
import json
import threading

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import write_receipt
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE
from tests.support.data import text_data
from tests.support.receipts import receipt_for, verify


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A sealed folder, and beside it the owner's file and a text file."""
    folder = tmp_path_factory.mktemp("place") / "published"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    receipt, forgotten = receipt_for(text_data(12))
    write_receipt(folder, receipt)
    forgotten.save(folder.parent / PRIVATE_FILE)
    (folder.parent / "secret.txt").write_text("secret")
    return folder


def answer(sealed, rows, command="verify"):
    words = ["--folder", str(sealed)] if command == "verify" else ["--output", str(sealed.parent / "proofs.json")]
    return main(["receipt", command, *words, "--private", str(sealed.parent / PRIVATE_FILE), "--rows", str(rows)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.jsonl", '{"text": "a"\n{]'),
        ("broken.json", "[" * 100_000),
        ("broken.csv", 'a,b\n1,2,3,4\n"'),
        ("broken.parquet", "xx"),
        ("empty.jsonl", ""),
        ("empty.json", "[]"),
        ("empty.csv", "text,label\n"),
        ("nothing.csv", ""),
    ],
)
@pytest.mark.parametrize("command", ["verify", "prove"])
def test_broken_and_empty_rows_are_told(sealed, tmp_path, capsys, name, content, command):
    (tmp_path / name).write_text(content)
    assert answer(sealed, tmp_path / name, command) == 2
    assert "`--rows=" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--proofs", "--private"])
def test_deeply_nested_json_is_told(sealed, tmp_path, capsys, option):
    text_data(2).to_json(tmp_path / "rows.jsonl")
    for content in ("[" * 200_000, '{"a":' * 200_000):
        (tmp_path / "deep.json").write_text(content)
        assert verify(sealed, option, tmp_path / "deep.json", "--rows", tmp_path / "rows.jsonl") == 2
        assert f"`{option.strip('-')}`" in capsys.readouterr().err.replace("--", "")


@pytest.fixture
def address():
    """An address on this machine, and the requests that were made to it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.png", asked
        server.shutdown()


def test_a_row_opens_no_file_and_no_address(sealed, tmp_path, monkeypatch, capsys, address):
    url, asked = address
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "link.txt").symlink_to(sealed.parent / "secret.txt")
    monkeypatch.chdir(place)
    away = [
        sealed.parent / "secret.txt",
        "../x",
        url,
        f"file:{sealed}/config.json",
        place / ".." / "x",
        place / "link.txt",
    ]
    for path in map(str, away):
        cell = {"bytes": None, "path": path}
        for number, row in enumerate(({"x": cell}, {"x": [{"y": cell}]})):
            (place / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
            assert answer(sealed, place / f"{number}.jsonl") == 2, path
            assert "only those in" in capsys.readouterr().err
        pictures = datasets.Dataset.from_dict({"x": [cell]}, features=datasets.Features({"x": datasets.Image()}))
        pq.write_table(pictures.data.table, place / "pictures.parquet")
        assert datasets.Dataset.from_parquet(str(place / "pictures.parquet")).features == pictures.features
        assert answer(sealed, place / "pictures.parquet") == 2, path
        assert "only those in" in capsys.readouterr().err
    assert asked == []


def test_pictures_beside_the_rows_are_read(sealed, tmp_path, capsys):
    """A folder of pictures, and rows that name files beside them: 1, they were not forgotten, and no refusal."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "data" / "cat" / "0.png")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "data"), split="train", cache_dir=tmp_path)
    receipt, forgotten = receipt_for(loaded)
    folder = tmp_path / "published"
    folder.mkdir()
    write_receipt(folder, receipt)
    forgotten.save(tmp_path / PRIVATE_FILE)
    private = ("--private", tmp_path / PRIVATE_FILE)
    assert verify(folder, *private, "--rows", tmp_path / "data") == 0
    assert verify(folder, *private, "--rows", f"{tmp_path / 'data'}:train") == 0
    cell = {"bytes": None, "path": str(tmp_path / "data" / "cat" / "0.png")}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": cell}) + "\n")
    assert verify(folder, *private, "--rows", tmp_path / "rows.jsonl") == 0
    assert "All 1 rows were in the request." in capsys.readouterr().out

"""`hf-unlearn receipt`: exit codes and messages, for good input, broken input, and repositories on a Hub."""

import http.server
import json
import threading

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants
from PIL import Image

from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, write_receipt
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, ForgottenRows
from tests.support.data import text_data
from tests.support.loopback_hub import ALWAYS, Fault
from tests.support.receipts import publish, receipt_for, verify


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path)


def test_membership_is_proven_or_refuted(published, tmp_path, capsys):
    private = ("--private", tmp_path / PRIVATE_FILE)
    text_data(12).select([3, 5]).to_json(tmp_path / "in.jsonl")
    assert verify(published, *private, "--rows", tmp_path / "in.jsonl") == 0
    assert "All 2 rows were in the request." in capsys.readouterr().out
    rows = datasets.concatenate_datasets([text_data(12).select([3]), text_data(12, seed=8).select([1, 2])])
    rows.to_parquet(tmp_path / "out.parquet")
    assert verify(published, *private, "--rows", tmp_path / "out.parquet") == 1
    assert "2 of 3 not shown to be in the request, numbers 1, 2" in capsys.readouterr().out
    rows.remove_columns("group").to_parquet(tmp_path / "less.parquet")
    assert verify(published, *private, "--rows", tmp_path / "less.parquet") == 1
    assert "columns text, label, those of the request group, label, text" in capsys.readouterr().out
    ForgottenRows.commit(text_data(12), "r-1").save(tmp_path / "other.private.json")
    assert verify(published, "--private", tmp_path / "other.private.json") == 1
    assert "another Merkle root" in capsys.readouterr().out


def test_a_third_party_checks_proofs_without_anything_private(published, tmp_path, capsys):
    text_data(12).select([3, 5]).to_json(tmp_path / "in.jsonl")
    text_data(12).select([5, 3]).to_json(tmp_path / "swapped.jsonl")
    text_data(12, seed=8).to_json(tmp_path / "out.jsonl")
    words = ["receipt", "prove", "--private", str(tmp_path / PRIVATE_FILE), "--output", str(tmp_path / "proofs.json")]
    assert main([*words, "--rows", str(tmp_path / "out.jsonl")]) == 1
    assert not (tmp_path / "proofs.json").exists()
    assert main([*words, "--rows", str(tmp_path / "in.jsonl")]) == 0
    (tmp_path / PRIVATE_FILE).unlink()
    proofs = ("--proofs", tmp_path / "proofs.json")
    assert verify(published, *proofs, "--rows", tmp_path / "in.jsonl") == 0
    assert verify(published, *proofs, "--rows", tmp_path / "swapped.jsonl") == 1
    assert verify(published, *proofs, "--rows", tmp_path / "out.jsonl") == 1
    (tmp_path / "proofs.json").write_text("{")
    assert verify(published, *proofs, "--rows", tmp_path / "in.jsonl") == 2


def test_one_leaf_proves_one_row(published, tmp_path, capsys):
    """A row that is given more often than it was forgotten is not proven more often."""
    twice = [*text_data(12), text_data(12)[3]]
    receipt, forgotten = receipt_for(twice)
    write_receipt(published, receipt)
    forgotten.save(tmp_path / PRIVATE_FILE)
    private = ("--private", tmp_path / PRIVATE_FILE)
    for name, numbers in (("two", [3, 5, 3]), ("three", [3, 3, 5, 3])):
        text_data(12).select(numbers).to_json(tmp_path / f"{name}.jsonl")
    assert verify(published, *private, "--rows", tmp_path / "two.jsonl") == 0
    assert verify(published, *private, "--rows", tmp_path / "three.jsonl") == 1
    assert "1 of 4 not shown to be in the request, numbers 3" in capsys.readouterr().out
    file = tmp_path / "proofs.json"
    words = ["receipt", "prove", *map(str, private), "--output", str(file)]
    assert main([*words, "--rows", str(tmp_path / "three.jsonl")]) == 1
    assert main([*words, "--rows", str(tmp_path / "two.jsonl")]) == 0
    proofs = ("--proofs", file)
    assert verify(published, *proofs, "--rows", tmp_path / "two.jsonl") == 0
    first, other, second = json.loads(file.read_text())
    for forged in ([first, other, first], [second, other, second]):
        file.write_text(json.dumps(forged))
        assert verify(published, *proofs, "--rows", tmp_path / "two.jsonl") == 1


def test_a_receipt_from_elsewhere_and_one_alone(published, tmp_path, capsys):
    copy = tmp_path / "copy.json"
    copy.write_bytes((published / RECEIPT).read_bytes())
    assert verify(published, "--receipt", copy) == 0
    assert main(["receipt", "verify", "--receipt", str(copy)]) == 0
    seal_other = receipt_for(text_data(3))[0]
    write_receipt(published, seal_other)
    assert verify(published) == 0
    assert verify(published, "--receipt", copy) == 1
    assert "the receipt in the folder differs from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`--folder`"),
        (["--folder", "no/such@revision"], "`--folder="),
        (["--folder", "{tmp}"], "`--receipt`"),
        (["--receipt", "{tmp}/none.json"], "`--receipt="),
        (["--folder", "{tmp}/published", "--rows", "x.csv"], "`--rows`"),
        (["--folder", "{tmp}/published", "--proofs", "{tmp}/key.pem"], "`--proofs` needs `--rows`"),
        (["--folder", "{tmp}/published", "--proofs", "x.json"], "`--proofs='x.json'`: there is no such file"),
        (["--folder", "{tmp}/published", "--public-key", "{tmp}/published/config.json"], "`--public-key`"),
        (["--folder", "./publishd"], "`--folder='./publishd'`: there is no such file or folder"),
        (["--folder", "{tmp}/published", "--private", "{tmp}/published/config.json"], "`private`"),
        (["--folder", "{tmp}/published", "--private", "{tmp}/" + PRIVATE_FILE, "--rows", "{tmp}/key.pem"], "`rows="),
        (["--fold", "{tmp}/published"], "--fold"),
    ],
)
def test_bad_input_exits_with_2(published, tmp_path, capsys, words, message):
    assert main(["receipt", "verify", *(w.replace("{tmp}", str(tmp_path)) for w in words)]) == 2
    assert message in capsys.readouterr().err


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
def test_broken_and_empty_rows_are_refused(sealed, tmp_path, capsys, name, content, command):
    (tmp_path / name).write_text(content)
    assert answer(sealed, tmp_path / name, command) == 2
    assert "`--rows=" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--proofs", "--private"])
def test_deeply_nested_json_is_refused(sealed, tmp_path, capsys, option):
    text_data(2).to_json(tmp_path / "rows.jsonl")
    for content in ("[" * 200_000, '{"a":' * 200_000):
        (tmp_path / "deep.json").write_text(content)
        assert verify(sealed, option, tmp_path / "deep.json", "--rows", tmp_path / "rows.jsonl") == 2
        assert f"`{option.strip('-')}`" in capsys.readouterr().err.replace("--", "")


@pytest.fixture
def address():
    """A server on this machine, as a URL, and the list of requests that it gets."""
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.png", requested
        server.shutdown()


def test_a_row_opens_no_file_and_no_address(sealed, tmp_path, monkeypatch, capsys, address):
    url, requested = address
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
    assert requested == []


def test_pictures_beside_the_rows_are_read(sealed, tmp_path, capsys):
    """Rows may name files in their own folder: of a folder of pictures, or beside a JSON file."""
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


REPO = "alice/unlearned"


@pytest.fixture
def pushed(hub, tmp_path, monkeypatch):
    """A sealed folder as alice/unlearned, and an empty cache; returns the keys' folder and the commit."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = publish(tmp_path)
    HfApi().create_repo(REPO)
    return tmp_path, HfApi().upload_folder(repo_id=REPO, folder_path=folder).oid


def tamper(branch=None):
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"{}", path_in_repo="config.json", revision=branch)


def test_a_repository_is_verified_at_its_revision_and_the_commit_is_printed(pushed, capsys):
    """The cache of the Hub has links to blobs and a `.gitattributes` file, which are no mismatch."""
    keys, commit = pushed
    HfApi().create_branch(REPO, branch="changed")
    tamper("changed")
    assert verify(REPO) == 0
    assert f"{REPO} at commit {commit}." in capsys.readouterr().out
    assert verify(f"{REPO}@main", "--public-key", keys / "key.pem.pub") == 0
    assert verify(f"{REPO}@changed") == 1
    assert "config.json: changed" in capsys.readouterr().out
    assert verify(f"{REPO}@{commit}") == 0
    assert verify(f"{REPO}@other") == 2
    assert verify("alice/none") == 2


@pytest.mark.parametrize("fault", [503, "reset", "offline"])
def test_a_cached_copy_is_not_taken_for_the_present_state_of_the_hub(pushed, hub, fault, monkeypatch, capsys):
    assert verify(REPO) == 0
    tamper()
    if fault == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.faults = [Fault(fault, times=ALWAYS, match=f"GET /api/models/{REPO}")]
    capsys.readouterr()
    assert verify(REPO) == 2
    printed = capsys.readouterr()
    assert "`--folder='alice/unlearned'`" in printed.err
    assert "All is" not in printed.out
    hub.faults = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert verify(REPO) == 1

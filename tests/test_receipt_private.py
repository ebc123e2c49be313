"""The owner's side of a receipt: readable by the owner alone, never lost, never published."""

import json
import os
import stat

import pytest
from huggingface_hub.utils import filter_repo_objects

from hf_unlearn import Receipt
from hf_unlearn.hub.receipt import RECEIPT, seal, verify_folder
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows
from tests.support.data import text_data
from tests.support.receipts import publish, receipt_for


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path)


def test_the_private_file_is_the_owners_alone_and_never_published(published, tmp_path):
    private = tmp_path / PRIVATE_FILE
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    forgotten = ForgottenRows.load(private)
    assert not any(secret.hex() in (published / RECEIPT).read_text() for secret in (forgotten.key, *forgotten.leaves))
    assert forgotten.key.hex() not in repr(forgotten)
    for name in (PRIVATE_FILE, "renamed.json", f"{PRIVATE_FOLDER}/rows.json", "private/rows.json"):
        copy = published / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(private.read_bytes() if "rename" in name or name == PRIVATE_FILE else b"{}")
        with pytest.raises(ValueError, match="is private"):
            seal(published)
        assert any(p.startswith(f"{name}: ") for p in verify_folder(published))
        copy.unlink()
    receipt, rows = receipt_for(text_data(3))
    with pytest.raises(ValueError, match=r"`private=.*to publish"):
        Receipt(receipt, rows).save(published, published / "at-home.json")
    pushed = filter_repo_objects([f"{PRIVATE_FOLDER}/{PRIVATE_FILE}", "report.md"], ignore_patterns=["_*"])
    assert list(pushed) == ["report.md"], "what `Trainer.push_to_hub` leaves out"


def test_private_content_is_not_sealed_however_it_is_written(published, tmp_path):
    private = json.loads((tmp_path / PRIVATE_FILE).read_text())
    proof = ForgottenRows.load(tmp_path / PRIVATE_FILE).prove(text_data(12)[3])
    escaped = json.dumps(private, sort_keys=True).replace("/", "\\/")
    for name, content in {
        "mine.json": json.dumps(private, sort_keys=True, indent=4),
        "escaped.json": escaped,
        "wide.json": escaped.encode("utf-16"),
        "within.JSON": json.dumps({"a": [{"schema": "x"}, private]}).replace("hf_", "\\u0068f_"),
        "shown.json": json.dumps([proof]),
        "lines.jsonl": f"{json.dumps(proof)}\n",
        "key.txt": b"\n" * 1000 + (tmp_path / "key.pem").read_bytes(),
    }.items():
        (published / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=f"{name} is private"):
            seal(published)
        (published / name).unlink()
    (published / "key.pem.pub").write_bytes((tmp_path / "key.pem.pub").read_bytes())
    (published / "other.json").write_text('{"schema": ["x"], "deep": ' + "[" * 100_000)
    assert {"key.pem.pub", "other.json"} <= seal(published)["files"].keys()


def test_nobody_can_read_the_private_file_while_it_is_written(tmp_path, monkeypatch):
    modes = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (modes.append(stat.S_IMODE(os.stat(a).st_mode)), replace(a, b)))
    before = os.umask(0)
    try:
        ForgottenRows.commit(text_data(3)).save(tmp_path / "x" / PRIVATE_FILE)
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700


def test_the_key_of_a_former_request_is_kept(tmp_path):
    first, second = (ForgottenRows.commit(text_data(3), "same-id") for _ in range(2))
    for rows in (first, second, second):
        rows.save(tmp_path / PRIVATE_FILE)
    kept = {ForgottenRows.load(p).key for p in tmp_path.iterdir()}
    assert kept == {first.key, second.key}
    assert all(p.name.endswith(".private.json") for p in tmp_path.iterdir())


@pytest.mark.parametrize("ids", [["r-1", "r-2", "r-3", "r-4"], ["same-id"] * 4])
def test_the_keys_of_requests_without_rows_are_kept_each(tmp_path, ids):
    """Their roots are all the same."""
    requests = [ForgottenRows.commit((), name) for name in ids]
    for rows in requests:
        rows.save(tmp_path / PRIVATE_FILE)
    assert {ForgottenRows.load(p).key for p in tmp_path.iterdir()} == {rows.key for rows in requests}


def test_a_file_that_was_set_aside_is_never_replaced(tmp_path):
    key = bytes(range(32))
    sides = [ForgottenRows.commit(text_data(n), "same-id", key) for n in (3, 4, 5)]
    for rows in sides:
        rows.save(tmp_path / PRIVATE_FILE)
    assert sorted(len(ForgottenRows.load(p).leaves) for p in tmp_path.iterdir()) == [3, 4, 5]


def test_a_broken_private_file_is_refused(tmp_path):
    ForgottenRows.commit(text_data(3)).save(tmp_path / "p.json")
    whole = json.loads((tmp_path / "p.json").read_text())
    changes = ({"root": "0" * 64}, {"leaves": whole["leaves"][::-1]}, {"key": "00"}, {"schema": "x"}, {"leaves": None})
    for change in (*changes, {"request": "../x"}):
        (tmp_path / "p.json").write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match="`private`"):
            ForgottenRows.load(tmp_path / "p.json")

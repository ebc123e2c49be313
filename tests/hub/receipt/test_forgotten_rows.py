"""The owner proves single rows, keeps every key, and reveals nothing about other rows."""

import hmac
import json
import os
import random
import stat

import pytest

from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, ForgottenRows, verify_inclusion
from hf_unlearn.hub.receipt.merkle_tree import leaf_hash
from hf_unlearn.hub.receipt.row_digest import row_digest
from tests.support.data import text_data


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
    """HMAC pads a short key with zeros and hashes a long one, so other keys give the same leaf. They are no proofs."""
    forgotten = ForgottenRows.commit(text_data(1))
    proof = forgotten.prove(text_data(1)[0])
    assert proof["path"] == []
    assert verify_inclusion(text_data(1)[0], proof, receipt_of(forgotten))
    longer = {**proof, "row_key": proof["row_key"] + "00"}
    assert not verify_inclusion(text_data(1)[0], longer, receipt_of(forgotten))


def test_each_copy_of_a_row_has_a_leaf_of_its_own():
    data = text_data(4)
    twice = ForgottenRows.commit([*data, data[0], data[0]])
    assert len(twice.leaves) == 6 == len(set(twice.leaves))
    assert verify_inclusion(data[0], twice.prove(data[0]), receipt_of(twice))


def test_a_proof_reveals_its_row_alone():
    """With the proof of one row, guesses of the other rows match nothing that was shown or published."""
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


def test_the_root_needs_the_key_and_the_order_reveals_nothing():
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
    """All requests without rows have the same root."""
    requests = [ForgottenRows.commit((), name) for name in ids]
    for rows in requests:
        rows.save(tmp_path / PRIVATE_FILE)
    assert {ForgottenRows.load(p).key for p in tmp_path.iterdir()} == {rows.key for rows in requests}


def test_an_older_private_file_is_never_replaced(tmp_path):
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

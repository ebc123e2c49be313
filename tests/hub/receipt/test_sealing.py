"""Every change in a published folder is found, and private files are refused."""

import json
import random
import stat

import pytest
from huggingface_hub.utils import filter_repo_objects

from hf_unlearn import Receipt
from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, canonical_json, seal, sealing, verify_folder
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows
from tests.support.data import text_data
from tests.support.hub_runs import run_folder
from tests.support.receipts import receipt_for, valid, verify, write_run_receipt


def test_an_untouched_folder_is_fine_and_sealing_again_changes_nothing(published):
    before = {p: p.read_bytes() for p in published.rglob("*") if p.is_file()}
    assert verify_folder(published) == []
    seal(published)
    assert {p: p.read_bytes() for p in published.rglob("*") if p.is_file()} == before


def test_bit_flips_in_twenty_random_places_are_all_found(published, capsys):
    files = sorted(p for p in published.rglob("*") if p.is_file())
    assert {p.name for p in files} >= {"model.safetensors", "config.json", "README.md", "roc.png", RECEIPT}
    rng = random.Random(20)
    for number in range(20):
        file = files[number % len(files)]
        raw = bytearray(file.read_bytes())
        whole = bytes(raw)
        at = rng.randrange(len(raw))
        raw[at] ^= 1 << rng.randrange(8)
        file.write_bytes(raw)
        problems = verify_folder(published)
        assert any(file.name in problem for problem in problems), f"{file.name}, byte {at}"
        assert verify(published) == 1
        assert "MISMATCH" in capsys.readouterr().out
        file.write_bytes(whole)
    assert verify_folder(published) == []


@pytest.mark.slow
def test_every_bit_of_the_receipt_counts(published):
    """Each flip in a sample of the bits of the receipt is found without the signature: spaces, digits and letters."""
    file = published / RECEIPT
    (published / f"{RECEIPT}.sig").unlink()
    whole = file.read_bytes()
    rng = random.Random(3)
    for bit in rng.sample(range(8 * len(whole)), 400):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        file.write_bytes(raw)
        assert sealing.verify_receipt(file), f"bit {bit}"
    file.write_bytes(whole[:-1])
    assert sealing.verify_receipt(file)
    file.write_bytes(whole.replace(b'"seed": 7', b'"seed": 7.0'))
    assert sealing.verify_receipt(file)
    file.write_bytes(whole)
    assert not sealing.verify_receipt(file)


def test_missing_and_extra_files_are_named_and_the_hubs_own_are_not(published):
    (published / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (published / ".cache" / "huggingface").mkdir(parents=True)
    (published / ".cache" / "huggingface" / "x.json").write_text("{}")
    for name in (".gitignore", "LICENSE", "LICENSE-MIT.md", "notice.txt"):
        (published / name).write_text("x")
    assert verify_folder(published) == []
    (published / "config.json").rename(published / "old.json")
    (published / "sub").mkdir()
    extra = {"adapter_model.safetensors", "sub/pytorch_model.bin", "model.safetensors.index.json", "modeling_x.py"}
    extra |= {"model.keras", "sub/original.hdf5", "original.tar.gz", "forgotten_rows.csv", "notes.md", "sub/LICENSE"}
    extra |= {"LICENSE.py", "NOTICE.safetensors", "original.safetensors.bak"}
    for name in extra:
        (published / name).write_bytes(b"x")
    wanted = [f"{name}: extra, not in the receipt" for name in sorted({*extra, "old.json"})]
    assert verify_folder(published) == ["config.json: missing", *wanted]


def test_links_to_folders_are_refused_and_links_to_files_are_the_files(published, tmp_path):
    (published / "config.json").rename(tmp_path / "blob")
    (published / "config.json").symlink_to(tmp_path / "blob")
    assert verify_folder(published) == []
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(b"x")
    (published / "onnx").symlink_to(tmp_path / "elsewhere")
    assert verify_folder(published) == ["onnx: is a link to a folder, whose files are not sealed"]
    with pytest.raises(ValueError, match="onnx is a link to a folder"):
        seal(published)
    (published / "onnx").unlink()
    (published / "figures").rename(tmp_path / "figures")
    (published / "figures").symlink_to(tmp_path / "figures")
    assert verify_folder(published)[0] == "figures/roc.png: missing"


def test_the_model_of_a_run_is_no_link_to_another_place(tmp_path):
    """Otherwise the weights could be exchanged, and the receipt would not show that."""
    run = run_folder(tmp_path / "run")
    (run / "model").rename(tmp_path / "disk")
    (run / "model").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match="model is a link to a folder"):
        write_run_receipt(run)
    (run / "model").unlink()
    write_run_receipt(run)
    assert not any("safetensors" in name for name in sealing.read_receipt(run / RECEIPT)["files"])
    with pytest.raises(ValueError, match="lists no weights"):
        sealing.changed_weights(run)
    (run / "model").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match="model is a link to a folder"):
        sealing.changed_weights(run)
    assert "model: is a link to a folder, whose files are not sealed" in verify_folder(run)


def test_a_receipt_names_no_file_outside_its_folder(published, tmp_path):
    """A file whose name in the receipt leads out of the folder counts as missing and is never opened."""
    receipt = sealing.read_receipt(published / RECEIPT)
    secret = sealing.file_digest(tmp_path / "key.pem")
    size = (tmp_path / "key.pem").stat().st_size
    receipt["files"]["../key.pem"] = {"bytes": size, "sha256": secret}
    receipt["digest"] = canonical_json.content_digest(receipt)
    (published / RECEIPT).write_text(canonical_json.file_text(receipt))
    assert "../key.pem: missing" in verify_folder(published)


def test_sealing_takes_in_new_files_and_drops_the_stale_signature(published):
    (published / "model-2.safetensors").write_bytes(b"x")
    assert verify_folder(published)
    sealed = seal(published)
    assert "model-2.safetensors" in valid(sealed)["files"]
    assert verify_folder(published) == []
    assert not (published / f"{RECEIPT}.sig").exists()
    (published / "config.json").write_text("{}")
    assert main(["receipt", "seal", "--folder", str(published)]) == 0
    assert verify(published) == 0


def test_a_changed_receipt_is_not_sealed_again(published):
    file = published / RECEIPT
    file.write_text(file.read_text().replace('"rows": 12', '"rows": 13'))
    with pytest.raises(ValueError, match="changed"):
        seal(published)
    file.unlink()
    with pytest.raises(ValueError, match="missing"):
        seal(published)


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

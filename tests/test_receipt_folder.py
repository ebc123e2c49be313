"""A published folder under its receipt: every changed byte is found, and what the command line answers."""

import json
import random
import stat

import datasets
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, seal, sealing, verify_folder, write_receipt
from hf_unlearn.hub.receipt import canonical_json as canonical
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, ForgottenRows
from tests.support.data import text_data
from tests.support.hub_runs import run_folder
from tests.support.receipts import publish, receipt_for, sign, valid, verify, write_run_receipt


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path)


# --- changed files ----------------------------------------------------------------------------------------------------


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


def test_every_bit_of_the_receipt_counts(published):
    """Spaces, digits and letters alike: each flip of a sample of its bits is found without the signature."""
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
    """Its weights could be exchanged without the receipt knowing of any."""
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
    """A name like `../secret` in a receipt is missing, never opened."""
    receipt = sealing.read_receipt(published / RECEIPT)
    secret = sealing.file_digest(tmp_path / "key.pem")
    size = (tmp_path / "key.pem").stat().st_size
    receipt["files"]["../key.pem"] = {"bytes": size, "sha256": secret}
    receipt["digest"] = canonical.content_digest(receipt)
    (published / RECEIPT).write_text(canonical.file_text(receipt))
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


def test_a_changed_receipt_is_not_blessed_by_sealing(published):
    file = published / RECEIPT
    file.write_text(file.read_text().replace('"rows": 12', '"rows": 13'))
    with pytest.raises(ValueError, match="changed"):
        seal(published)
    file.unlink()
    with pytest.raises(ValueError, match="missing"):
        seal(published)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_a_signature_is_of_the_owners_key_or_it_is_found(published, tmp_path, no_network):
    public = tmp_path / "key.pem.pub"
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert verify(published, "--public-key", public) == 0
    signature = json.loads((published / f"{RECEIPT}.sig").read_text())
    ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"])).verify(
        bytes.fromhex(signature["signature"]), (published / RECEIPT).read_bytes()
    )
    assert main(["receipt", "keygen", "--output", str(tmp_path / "other.pem")]) == 0
    assert verify(published, "--public-key", tmp_path / "other.pem.pub") == 1
    # A stranger rewrites the model, the receipt and the signature: only the owner's key tells.
    (published / "model.safetensors").write_bytes(b"other weights")
    seal(published)
    (tmp_path / "key.pem").rename(tmp_path / "owners.pem")
    (tmp_path / "other.pem").rename(tmp_path / "key.pem")
    sign(published, tmp_path)
    assert verify(published) == 0
    assert verify(published, "--public-key", public) == 1
    (published / f"{RECEIPT}.sig").unlink()
    assert verify(published) == 0
    assert verify(published, "--public-key", public) == 1


def test_a_signature_of_other_bytes_is_invalid(published):
    file = published / f"{RECEIPT}.sig"
    whole = file.read_bytes()
    content = json.loads(whole)
    for change in (
        {"signature": content["signature"][:-1] + ("0" if content["signature"][-1] != "0" else "1")},
        {"signature": content["signature"].upper()},
        {"public_key": "00" * 32},
        {"algorithm": "none"},
        {"more": 1},
    ):
        file.write_text(canonical.file_text({**content, **change}))
        assert any(p.startswith(file.name) for p in verify_folder(published)), change
    for bit in range(0, 8 * len(whole), 7):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        file.write_bytes(raw)
        assert verify_folder(published), f"bit {bit}"


def test_keys_are_not_overwritten_and_others_are_refused(tmp_path, published, capsys):
    assert main(["receipt", "keygen", "--output", str(tmp_path / "key.pem")]) == 2
    assert "`key`" in capsys.readouterr().err
    assert main(["receipt", "sign", "--receipt", str(published / RECEIPT), "--key", str(tmp_path / "none")]) == 2
    assert verify(published, "--public-key", published / "README.md") == 2
    assert verify(published, "--public-key", tmp_path / "key.pem") == 2  # the private one

    other = x25519.X25519PrivateKey.generate().public_key()
    (tmp_path / "x.pub").write_bytes(
        other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert verify(published, "--public-key", tmp_path / "x.pub") == 2


# --- the command line -------------------------------------------------------------------------------------------------


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


def test_one_forgotten_row_stands_for_one_row(published, tmp_path, capsys):
    """Given more often than it was forgotten, a row is not shown to have been, whatever the proofs say."""
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
    assert "the folder's own is another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`--folder`"),
        (["--folder", "no/such@revision"], "`--folder="),
        (["--folder", "{tmp}"], "`--receipt`"),
        (["--receipt", "{tmp}/none.json"], "`--receipt`"),
        (["--folder", "{tmp}/published", "--rows", "x.csv"], "`--rows`"),
        (["--folder", "{tmp}/published", "--proofs", "x.json"], "`--proofs`"),
        (["--folder", "{tmp}/published", "--private", "{tmp}/published/config.json"], "`private`"),
        (["--folder", "{tmp}/published", "--private", "{tmp}/" + PRIVATE_FILE, "--rows", "{tmp}/key.pem"], "`rows="),
        (["--fold", "{tmp}/published"], "--fold"),
    ],
)
def test_bad_input_exits_with_2(published, tmp_path, capsys, words, message):
    assert main(["receipt", "verify", *(w.replace("{tmp}", str(tmp_path)) for w in words)]) == 2
    assert message in capsys.readouterr().err

"""A signature is valid for the owner's key and for the bytes that were signed, and for nothing else."""

import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, canonical_json, seal, verify_folder
from tests.support.receipts import sign, verify


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
    # A stranger rewrites the model, the receipt and the signature: only the owner's key shows the difference.
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


@pytest.mark.slow
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
        file.write_text(canonical_json.file_text({**content, **change}))
        assert any(p.startswith(file.name) for p in verify_folder(published)), change
    for bit in range(0, 8 * len(whole), 7):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        file.write_bytes(raw)
        assert verify_folder(published), f"bit {bit}"


def test_keys_are_not_overwritten_and_others_are_refused(tmp_path, published, capsys):
    assert main(["receipt", "keygen", "--output", str(tmp_path / "key.pem")]) == 2
    assert "`--output`: " in capsys.readouterr().err
    assert main(["receipt", "sign", "--receipt", str(published / RECEIPT), "--key", str(tmp_path / "none")]) == 2
    assert verify(published, "--public-key", published / "README.md") == 2
    assert verify(published, "--public-key", tmp_path / "key.pem") == 2  # the private one

    other = x25519.X25519PrivateKey.generate().public_key()
    (tmp_path / "x.pub").write_bytes(
        other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert verify(published, "--public-key", tmp_path / "x.pub") == 2

"""Signatures of receipts: Ed25519 over the bytes of the file, detached, checked without a network.

A receipt's own digests find accidents; only a signature finds an author who is not the owner. Keyless signing (sigstore, as in
`model-signing`) would need no key file, but the network on both sides, and publishes the signer's e-mail address.

Needs `cryptography`, the extra `sign`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...utils.files import write_atomically
from .canonical_json import file_text, read_exactly

SIGNATURE_SCHEMA = "hf_unlearn/signature/1"


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signatures need `cryptography`: pip install 'hf_unlearn[sign]'.") from error
    return serialization, ed25519


def generate_key(path: str | Path) -> Path:
    """Write a new private key to `path` (PEM, unencrypted, readable by its owner alone) and the public one beside it as `.pub`.

    Returns:
        The public key's path.

    Raises:
        ValueError: a file of either name is there: keys are never overwritten.
    """
    serialization, ed25519 = _cryptography()
    path = Path(path)
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise ValueError(
                f"`key`: {file} exists already. Choose another name: a key that is lost signs nothing more."
            )
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, secret, mode=0o600)
    write_atomically(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def read_public_key(path: str | Path) -> bytes:
    """The 32 bytes of an Ed25519 public key in a PEM file.

    Raises:
        ValueError: there is none.
    """
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"`public_key`: {path} is no public key in PEM: {error}.") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError(f"`public_key`: {path} holds a key of another kind than Ed25519.")
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def sign(path: str | Path, key_file: str | Path) -> Path:
    """Sign the file at `path` with the private key of `key_file`; the signature lies beside it as `.sig`.

    Raises:
        ValueError: no Ed25519 private key.
    """
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(Path(key_file).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"`key`: {key_file} is no unencrypted private key in PEM: {error}.") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"`key`: {key_file} holds a key of another kind than Ed25519.")
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    signature = signature_file(path)
    content = {
        "schema": SIGNATURE_SCHEMA,
        "algorithm": "Ed25519",
        "public_key": public.hex(),
        "signature": key.sign(Path(path).read_bytes()).hex(),
    }
    write_atomically(signature, file_text(content))
    return signature


def signature_file(path: str | Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.sig")


def check_signature(path: Path, signature_path: Path, expected: bytes | None = None) -> str | None:
    """What is wrong with the signature of the file at `path`, or None.

    Args:
        expected: the 32 bytes of the public key it must be of; None: whichever key the signature names.
    """
    from cryptography.exceptions import InvalidSignature

    _, ed25519 = _cryptography()
    try:
        content = read_exactly(signature_path)
        if (content["schema"], content["algorithm"]) != (SIGNATURE_SCHEMA, "Ed25519") or len(content) != 4:
            return "is no signature of this kind"
        public, signature = bytes.fromhex(content["public_key"]), bytes.fromhex(content["signature"])
        if (public.hex(), signature.hex()) != (content["public_key"], content["signature"]):
            return "was changed: its hexadecimal digits are not those that were written"
        if expected is not None and public != expected:
            return "is of another key than `public_key`"
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, path.read_bytes())
    except FileNotFoundError:
        return "missing"
    except InvalidSignature:
        return "does not belong to the receipt: one of the two was changed, or the key"
    except (ValueError, KeyError, TypeError) as error:
        return f"is broken: {error}"
    return None

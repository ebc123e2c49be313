"""Signatures of receipts: Ed25519 over the bytes of the file, in a file of its own, checked without a network.

The digests in a receipt reveal accidents. Only a signature reveals that somebody else wrote the receipt. Keyless signing
(sigstore, as in `model-signing`) needs no key file, but needs the network on both sides and publishes the signer's e-mail address.

Needs `cryptography`, the extra `sign`.
"""

from pathlib import Path
from typing import Any

from ...utils.files import write_atomically
from .canonical_json import file_text, read_exactly

UNSIGNED = "Detects accidental changes. Not signed, so it cannot detect a forged receipt."
SIGNATURE_SCHEMA = "hf_unlearn/signature/1"


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signatures need `cryptography`: pip install 'hf_unlearn[sign]'.") from error
    return serialization, ed25519


def generate_key(path: str | Path) -> Path:
    """Write a new private key to `path` (PEM, not encrypted, readable by its owner alone) and the public key beside it.

    Returns:
        The path of the public key, `path` with `.pub` appended.

    Raises:
        ValueError: one of the two files exists. Keys are never overwritten.
    """
    serialization, ed25519 = _cryptography()
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`key`: {path} is a folder. Name a file in it.")
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise ValueError(f"`key`: {file} exists already. Choose another name: a key that is overwritten is lost.")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, secret, mode=0o600)
    write_atomically(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def _load_key(path: str | Path, argument: str, private: bool) -> Any:
    """Load an Ed25519 key from a PEM file."""
    serialization, ed25519 = _cryptography()
    kind = "unencrypted private key" if private else "public key"
    try:
        pem = Path(path).read_bytes()
        key = serialization.load_pem_private_key(pem, None) if private else serialization.load_pem_public_key(pem)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"`{argument}`: {path} is no {kind} in PEM: {error}. Give one that `hf-unlearn receipt keygen` made."
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey):
        raise ValueError(f"`{argument}`: {path} holds a key of another kind than Ed25519.")
    return key


def read_public_key(path: str | Path) -> bytes:
    """Return the 32 bytes of the Ed25519 public key in a PEM file.

    Raises:
        ValueError: the file does not exist or holds something else.
    """
    return _load_key(path, "public_key", private=False).public_bytes_raw()


def sign(path: str | Path, key_file: str | Path) -> Path:
    """Sign the file at `path` with the private key in `key_file`, and return the path of the signature, `path` with `.sig`.

    Raises:
        ValueError: `key_file` holds no Ed25519 private key.
    """
    key = _load_key(key_file, "key", private=True)
    signature = signature_file(path)
    content = {
        "schema": SIGNATURE_SCHEMA,
        "algorithm": "Ed25519",
        "public_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign(Path(path).read_bytes()).hex(),
    }
    write_atomically(signature, file_text(content))
    return signature


def signature_file(path: str | Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.sig")


def check_signature(path: Path, signature_path: Path, expected: bytes | None = None) -> str | None:
    """Check the signature of the file at `path`, and return what is wrong with it, or None.

    Args:
        expected: the 32 bytes of the public key that must have signed. Default None: the key that the signature names.

    Raises:
        ImportError: `cryptography` is not installed.
    """
    _, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

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

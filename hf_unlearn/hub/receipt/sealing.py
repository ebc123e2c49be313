"""Receipts of published folders: the digests of all files are written last, and anyone can check them."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...utils.files import file_digest, write_atomically
from ..layout import BOILERPLATE, RECEIPT, WEIGHTS
from .canonical_json import content_digest, file_text, read_exactly
from .forgotten_rows import PRIVATE_FOLDER, PRIVATE_SCHEMA, PROOF_SCHEMA
from .signing import check_signature, signature_file

RECEIPT_SCHEMA = "hf_unlearn/receipt/1"
UNSEALED = {RECEIPT, f"{RECEIPT}.sig", ".gitattributes"}
UNSEALED_FOLDERS = {".git", ".cache/huggingface"}
PRIVATE_SCHEMAS = (PRIVATE_SCHEMA, PROOF_SCHEMA)
SEARCHED = 2**26  # bytes of a file that are searched for private content
LINKED_FOLDER = "is a link to a folder, whose files are not sealed"
OBJECTS = "request forgotten_rows data base_model method arguments seeds versions outcome metrics files"
FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(OBJECTS.split(), dict),
    **dict.fromkeys(("schema", "started", "ended", "digest"), str),
    "previous": (str, type(None)),
    "covers": (list, type(None)),
}


def write_receipt(folder: str | Path, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Write `receipt` with the digests of the files in `folder` into that folder, atomically, and return it as written.

    Only the files and folders that its entry `covers` names are digested (None: all). If the receipt changes, its former
    signature is deleted.

    Raises:
        ValueError: a file that would be published is private, or a folder is a link.
    """
    folder = Path(folder)
    files = {}
    for name, path in published_files(folder, receipt["covers"]):
        refuse_private(name, path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    sealed = {**receipt, "files": files}
    sealed["digest"] = content_digest(sealed)
    target = folder / RECEIPT
    text = file_text(sealed)
    if not target.is_file() or target.read_bytes() != text.encode():
        signature_file(target).unlink(missing_ok=True)
        write_atomically(target, text)
    return sealed


def seal(folder: str | Path, whole: bool = True) -> dict[str, Any]:
    """Update the receipt in `folder` to the files there. This is the last step before a push; sign after it, not before.

    Args:
        folder: the folder with the receipt.
        whole: cover every file of the folder. Default True. False keeps what the receipt covers, as in the output folder of a
            run, which holds more than is published.

    Raises:
        ValueError: there is no receipt, it was changed by hand, or a file is private.
    """
    receipt = read_receipt(Path(folder) / RECEIPT)
    return write_receipt(folder, {**receipt, "covers": None} if whole else receipt)


def changed_weights(folder: Path) -> list[str]:
    """Return the files of weights in `folder` that differ from those in its receipt, which then belongs to another model.

    Raises:
        ValueError: neither the folder nor the receipt has weights, so the receipt says nothing about a model.
    """
    receipt = read_receipt(folder / RECEIPT)
    present = {n: path for n, path in published_files(folder, receipt["covers"]) if WEIGHTS.fullmatch(n)}
    listed = {n: file["sha256"] for n, file in receipt["files"].items() if WEIGHTS.fullmatch(n)}
    if not present and not listed:
        raise ValueError(
            f"{RECEIPT} lists no weights, so it is not the receipt of this model. Remove it, or seal it again."
        )
    both = present.keys() & listed.keys()
    same = {n for n in both if file_digest(present[n]) == listed[n]}
    return sorted((present.keys() | listed.keys()) - same)


def read_receipt(path: str | Path) -> dict[str, Any]:
    """Read the receipt at `path`.

    Raises:
        ValueError: it is missing, incomplete or changed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: missing")
    try:
        receipt = read_exactly(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: changed, {error}") from error
    if receipt.get("schema") != RECEIPT_SCHEMA:
        raise ValueError(f"{path.name}: its `schema` is not {RECEIPT_SCHEMA!r}")
    wrong = [k for k, kind in FIELDS.items() if k not in receipt or not isinstance(receipt[k], kind)]
    if wrong or content_digest(receipt) != receipt["digest"]:
        raise ValueError(f"{path.name}: changed, its content has another digest than it says")
    listed = all(isinstance(f, dict) and f.keys() == {"bytes", "sha256"} for f in receipt["files"].values())
    if not listed or not {"root", "rows"} <= receipt["forgotten_rows"].keys() or "id" not in receipt["request"]:
        raise ValueError(f"{path.name}: is no receipt, `files`, `forgotten_rows` or `request` are malformed")
    return receipt


def verify_folder(
    folder: str | Path,
    public_key: bytes | None = None,
    receipt_file: str | Path | None = None,
    signature: Path | None = None,
) -> list[str]:
    """Return the differences between a published folder and its receipt, one line for each. No line: nothing changed.

    Args:
        folder: a copy of the published folder.
        public_key: 32 bytes of the Ed25519 key that must have signed the receipt. Default None: the receipt need not be signed,
            but a signature must be valid.
        receipt_file: a receipt from elsewhere. The receipt in the folder must equal it. Default None: the one in the folder.
        signature: its signature. Default None: the one beside the receipt, or in the folder.

    Raises:
        ImportError: there is a signature, and `cryptography` is not installed.
    """
    folder, own = Path(folder), Path(folder) / RECEIPT
    path = own if receipt_file is None else Path(receipt_file)
    problems = []
    if own.is_file() and path.is_file() and own.read_bytes() != path.read_bytes():
        problems.append(f"{own.name}: the receipt in the folder differs from {path}")
    given = (
        signature if signature is not None else next((s for s in map(signature_file, (path, own)) if s.exists()), None)
    )
    problems += verify_receipt(path, public_key, given)
    try:
        return problems + _differing_files(folder, read_receipt(path))
    except ValueError:  # It is among the problems.
        return problems


def verify_receipt(path: Path, public_key: bytes | None = None, signature: Path | None = None) -> list[str]:
    """Return what is wrong with the receipt alone; see `verify_folder`. `signature`: its file. Default None: beside it."""
    problems, signature = [], signature or signature_file(path)
    if public_key is not None or signature.exists():
        wrong = check_signature(path, signature, public_key)
        problems += [] if wrong is None else [f"{signature.name}: {wrong}"]
    try:
        read_receipt(path)
    except ValueError as error:
        problems.append(str(error))
    return problems


def _differing_files(folder: Path, receipt: Mapping[str, Any]) -> list[str]:
    covers, listed = receipt["covers"], receipt["files"]
    present = dict(_entries(folder, None))
    problems = [f"{name}: missing" for name in sorted(listed.keys() - present.keys())]
    for name, path in sorted(present.items()):
        if path.is_dir():
            problems += [f"{name}: {LINKED_FOLDER}"] if _covered(name, covers) else []
        elif name in listed:
            digest = file_digest(path)
            if digest != listed[name]["sha256"] or path.stat().st_size != listed[name]["bytes"]:
                problems.append(f"{name}: changed, SHA-256 {digest} instead of {listed[name]['sha256']}")
        elif _is_extra(name, covers):
            problems.append(f"{name}: extra, not in the receipt")
        if is_private(name) and _covered(name, covers):
            problems.append(f"{name}: private, and must never be published")
    return problems


def _is_extra(name: str, covers: list[str] | None) -> bool:
    """Check whether an unlisted file matters. Outside of what is covered only weights matter that loading would find."""
    if _covered(name, covers):
        return not BOILERPLATE.fullmatch(name)
    return "/" not in name and bool(WEIGHTS.fullmatch(name))


def _covered(name: str, covers: list[str] | None) -> bool:
    return covers is None or name.partition("/")[0] in covers


def published_files(folder: Path, covers: list[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield the covered files of `folder`, with names such as `a/b.json`, except the receipt and the Hub's own files.

    A link to a file counts as the file.

    Raises:
        ValueError: a folder among them is a link, which not every reader follows.
    """
    for name, path in _entries(folder, covers):
        if path.is_dir():
            raise ValueError(f"{name} {LINKED_FOLDER}. Put the folder itself in its place.")
        yield name, path


def _entries(folder: Path, covers: list[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield `published_files`, and also links to folders."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(f for f in folders if (inside / f).as_posix() not in UNSEALED_FOLDERS)
        for name in sorted(names + [f for f in folders if Path(place, f).is_symlink()]):
            relative, path = (inside / name).as_posix(), Path(place, name)
            if relative not in UNSEALED and _covered(relative, covers) and (path.is_file() or path.is_dir()):
                yield relative, path


def is_private(name: str) -> bool:
    """Check whether a file of this name must stay with the owner."""
    return name.endswith(".private.json") or bool({PRIVATE_FOLDER, "private"} & set(name.split("/")[:-1]))


def refuse_private(name: str, path: Path) -> None:
    """Raise ValueError if a file holds a private key, the owner's side of a receipt or proofs, or has a name of such a file."""
    with open(path, "rb") as file:
        if not is_private(name) and not _holds_private(name, file.read(SEARCHED)):
            return
    raise ValueError(
        f"{name} is private: it can sign for the owner, or shows which rows were forgotten. Move it out of the folder first."
    )


def _holds_private(name: str, raw: bytes) -> bool:
    if any(mark in raw for mark in (b"PRIVATE KEY-----", *(f'"{schema}"'.encode() for schema in PRIVATE_SCHEMAS))):
        return True
    if not name.lower().endswith(".json") or len(raw) == SEARCHED:
        return False
    schemas: list[Any] = []
    try:  # JSON can write the same text in many ways, so the file is parsed.
        json.loads(raw, object_pairs_hook=lambda pairs: schemas.extend(v for k, v in pairs if k == "schema"))
    except (ValueError, RecursionError):
        return False
    return any(schema in PRIVATE_SCHEMAS for schema in schemas)

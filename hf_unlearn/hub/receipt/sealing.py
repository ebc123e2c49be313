"""The published folder under its receipt: digests of every file, written last, and checked by anyone."""

from __future__ import annotations

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
SEARCHED = 2**26  # bytes of a file that are searched for something private
LINKED_FOLDER = "is a link to a folder, whose files are not sealed"
FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "request": dict,
    "forgotten_rows": dict,
    "data": dict,
    "base_model": dict,
    "method": dict,
    "arguments": dict,
    "seeds": dict,
    "versions": dict,
    "started": str,
    "ended": str,
    "outcome": dict,
    "metrics": dict,
    "previous": (str, type(None)),
    "covers": (list, type(None)),
    "files": dict,
    "digest": str,
}


def write_receipt(folder: str | Path, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Write `receipt` into `folder` with the digests of the files there, atomically, and return it as written.

    Only what its entry `covers` names (files and folders of `folder`; None: everything) is digested. A signature of the bytes
    before is removed.

    Raises:
        ValueError: something private, or a link to a folder, lies among the files that would be published.
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
    """Bring the receipt in `folder` up to date with every file there: the last thing before a push. Sign after it, not before.

    With `whole=False` only with what it covers already, in the output folder of a run that holds more than is published.

    Raises:
        ValueError: there is no receipt, it was changed by hand, or something private lies among the files.
    """
    receipt = read_receipt(Path(folder) / RECEIPT)
    return write_receipt(folder, {**receipt, "covers": None} if whole else receipt)


def changed_weights(folder: Path) -> list[str]:
    """Files of weights in `folder` that are not those of its receipt: that one belongs to another model.

    Raises:
        ValueError: there are none in what the receipt covers, neither there nor in the receipt: it says nothing of the model.
    """
    receipt = read_receipt(folder / RECEIPT)
    present = {n: path for n, path in published_files(folder, receipt["covers"]) if WEIGHTS.fullmatch(n)}
    listed = {n: file["sha256"] for n, file in receipt["files"].items() if WEIGHTS.fullmatch(n)}
    if not present and not listed:
        raise ValueError(f"{RECEIPT} lists no weights, so it is not of a model here. Remove it, or seal it anew.")
    both = present.keys() & listed.keys()
    same = {n for n in both if file_digest(present[n]) == listed[n]}
    return sorted((present.keys() | listed.keys()) - same)


def read_receipt(path: str | Path) -> dict[str, Any]:
    """The receipt at `path`, whole and as it was written.

    Raises:
        ValueError: it is not.
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
    folder: str | Path, public_key: bytes | None = None, receipt_file: str | Path | None = None
) -> list[str]:
    """What differs between a published folder and its receipt, a line each; nothing where all is as it was sealed.

    Args:
        folder: a copy of the published folder.
        public_key: 32 bytes of the Ed25519 key that the receipt must be signed with. None: a signature need not be there, but
            where it is it must fit.
        receipt_file: a receipt from elsewhere, which the one in the folder must equal; by default the one in the folder.

    Raises:
        ImportError: there is a signature, and no `cryptography` to check it with.
    """
    folder, own = Path(folder), Path(folder) / RECEIPT
    path = own if receipt_file is None else Path(receipt_file)
    problems = []
    if own.is_file() and path.is_file() and own.read_bytes() != path.read_bytes():
        problems.append(f"{own.name}: the folder's own is another than {path}")
    signature = next((s for s in map(signature_file, (path, own)) if s.exists()), None)
    problems += verify_receipt(path, public_key, signature)
    try:
        return problems + _differing_files(folder, read_receipt(path))
    except ValueError:  # among the problems already
        return problems


def verify_receipt(path: Path, public_key: bytes | None = None, signature: Path | None = None) -> list[str]:
    """What is wrong with a receipt by itself; `signature`: a file, if not the one beside it. See `verify_folder`."""
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
            problems += [f"{name}: {LINKED_FOLDER}"] if covers is None or _covered(name, covers) else []
        elif name in listed:
            digest = file_digest(path)
            if digest != listed[name]["sha256"] or path.stat().st_size != listed[name]["bytes"]:
                problems.append(f"{name}: changed, SHA-256 {digest} instead of {listed[name]['sha256']}")
        elif _is_extra(name, covers):
            problems.append(f"{name}: extra, not in the receipt")
        if is_private(name) and (covers is None or _covered(name, covers)):
            problems.append(f"{name}: private, and must never be published")
    return problems


def _is_extra(name: str, covers: list[str] | None) -> bool:
    """Whether an unlisted file matters; beside what is covered, only weights that loading the folder would find."""
    if covers is None or _covered(name, covers):
        return not BOILERPLATE.fullmatch(name)
    return "/" not in name and bool(WEIGHTS.fullmatch(name))


def _covered(name: str, covers: list[str]) -> bool:
    return name.partition("/")[0] in covers


def published_files(folder: Path, covers: list[str] | None) -> Iterator[tuple[str, Path]]:
    """The files of `folder` with their names in it (`a/b.json`), without the receipt and what the Hub keeps for itself.

    Links to files count as the files.

    Raises:
        ValueError: a folder among them is a link: not all who read the folder would follow it.
    """
    for name, path in _entries(folder, covers):
        if path.is_dir():
            raise ValueError(f"{name} {LINKED_FOLDER}. Put the folder itself in its place.")
        yield name, path


def _entries(folder: Path, covers: list[str] | None) -> Iterator[tuple[str, Path]]:
    """`published_files`, and among them the links to folders."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(f for f in folders if (inside / f).as_posix() not in UNSEALED_FOLDERS)
        for name in sorted(names + [f for f in folders if Path(place, f).is_symlink()]):
            relative, path = (inside / name).as_posix(), Path(place, name)
            covered = relative not in UNSEALED and (covers is None or _covered(relative, covers))
            if covered and (path.is_file() or path.is_dir()):
                yield relative, path


def is_private(name: str) -> bool:
    """Whether a file of this name must stay with the owner."""
    return name.endswith(".private.json") or bool({PRIVATE_FOLDER, "private"} & set(name.split("/")[:-1]))


def refuse_private(name: str, path: Path) -> None:
    """Raise ValueError where a file holds a key, the owner's side of a receipt or proofs, or is named as such a file is."""
    with open(path, "rb") as file:
        if not is_private(name) and not _holds_private(name, file.read(SEARCHED)):
            return
    raise ValueError(
        f"{name} is private: it signs in the owner's name, or tells which rows were forgotten. Move it out of the folder first."
    )


def _holds_private(name: str, raw: bytes) -> bool:
    if any(mark in raw for mark in (b"PRIVATE KEY-----", *(f'"{schema}"'.encode() for schema in PRIVATE_SCHEMAS))):
        return True
    if not name.lower().endswith(".json") or len(raw) == SEARCHED:
        return False
    schemas: list[Any] = []
    try:  # parsed, for JSON may write the same name in many ways
        json.loads(raw, object_pairs_hook=lambda pairs: schemas.extend(v for k, v in pairs if k == "schema"))
    except (ValueError, RecursionError):  # no JSON
        return False
    return any(schema in PRIVATE_SCHEMAS for schema in schemas)

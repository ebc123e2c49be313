"""What a branch on the Hub holds already: nothing that matters, what was pushed from here, or what is somebody's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...utils.files import file_digest
from ..layout import BOILERPLATE, CARD, OURS, RECEIPT, REPORT


def names_of(info: Any) -> set[str]:
    """Paths of the files on a branch (`ModelInfo`)."""
    return {file.rfilename for file in info.siblings}


def is_tagged(info: Any) -> bool:
    """Whether the card there says that it is of hf_unlearn."""
    return OURS in {*(info.tags or ()), *(getattr(info.card_data, "tags", None) or ())}


def not_boilerplate(info: Any) -> set[str]:
    """The files there that are neither a card nor a licence and the like."""
    return {name for name in names_of(info) if name != CARD and not BOILERPLATE.fullmatch(name)}


def license_beside(info: Any) -> Any:
    """The licence that the card on a branch names, where that is of hf_unlearn or no other model is there; else None."""
    return getattr(info.card_data, "license", None) if is_tagged(info) or not not_boilerplate(info) else None


def is_evidence(path: Path) -> bool:
    """Whether a file called `report.json`, or as a receipt is, is one of hf_unlearn."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    kind = "report" if path.name == REPORT else "receipt"
    return isinstance(content, dict) and str(content.get("schema")).startswith(f"hf_unlearn/{kind}/")


def evidence_in(info: Any) -> list[str]:
    """The files there whose schema tells whether hf_unlearn made them."""
    return sorted({REPORT, RECEIPT} & names_of(info))


def same_files(info: Any, folder: Path, names: list[str]) -> bool:
    """Whether every one of `names` is there with the bytes that it has in `folder`."""
    there = {file.rfilename: file for file in info.siblings}
    return all(name in there and _is_same(there[name], folder / name) for name in names)


def _is_same(file: Any, path: Path) -> bool:
    if file.lfs is not None:
        return bool(file_digest(path) == file.lfs.sha256)
    data = path.read_bytes()  # a small file, which git names by this digest
    return bool(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == file.blob_id)

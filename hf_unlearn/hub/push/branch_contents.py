"""What a branch on the Hub holds already: nothing that matters, an earlier push, or files of somebody else."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import git_hash

from ...utils.files import file_digest
from ..layout import BOILERPLATE, CARD, OURS, REPORT


def names_of(info: Any) -> set[str]:
    """Return the paths of the files on a branch (`ModelInfo`)."""
    return {file.rfilename for file in info.siblings}


def is_tagged(info: Any) -> bool:
    """Whether the card on a branch has the tag of hf_unlearn."""
    return OURS in {*(info.tags or ()), *(getattr(info.card_data, "tags", None) or ())}


def not_boilerplate(info: Any) -> set[str]:
    """Return the files on a branch that are neither card nor boilerplate such as a license."""
    return {name for name in names_of(info) if name != CARD and not BOILERPLATE.fullmatch(name)}


def license_beside(info: Any) -> Any:
    """Return the license that a branch's card names, or None if that card may belong to the model of somebody else."""
    return getattr(info.card_data, "license", None) if is_tagged(info) or not not_boilerplate(info) else None


def is_evidence(path: Path) -> bool:
    """Whether `report.json` or the receipt at `path` was written by hf_unlearn, by its schema."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    kind = "report" if path.name == REPORT else "receipt"
    return isinstance(content, dict) and str(content.get("schema")).startswith(f"hf_unlearn/{kind}/")


def same_files(info: Any, folder: Path, names: list[str]) -> bool:
    """Whether a branch holds every file of `names` with the same bytes as `folder`."""
    there = {file.rfilename: file for file in info.siblings}
    return all(name in there and _is_same(there[name], folder / name) for name in names)


def _is_same(file: Any, path: Path) -> bool:
    """Compare by the digest that the Hub knows: SHA-256 of a large file, git's own digest of a small one."""
    if file.lfs is not None:
        return bool(file_digest(path) == file.lfs.sha256)
    return bool(git_hash(path.read_bytes()) == file.blob_id)

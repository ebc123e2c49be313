"""JSON of one form, so that any changed byte shows, and words and numbers that are safe to publish."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

WORDS = 80  # characters of a name that are kept


def file_text(content: Mapping[str, Any]) -> str:
    """The one text that `content` is written as: keys sorted, indented, ASCII."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


def read_exactly(path: Path) -> dict[str, Any]:
    """A JSON object that is written as `file_text` writes it, byte for byte.

    Raises:
        ValueError: it is not.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        exact = isinstance(content, dict) and file_text(content).encode() == raw
    except (ValueError, RecursionError) as error:
        raise ValueError("its JSON is broken") from error
    if not exact:
        raise ValueError("its bytes are not those that were written")
    return content


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of `content` without its entry `digest`, as `file_text` writes it."""
    return sha256(file_text({k: v for k, v in content.items() if k != "digest"}).encode()).hexdigest()


def words(text: object) -> str:
    """`text` as a short line without meaning to markdown, HTML or a terminal: other characters become `?`."""
    line = " ".join(str(text).split())
    line = re.sub(r"[^\w .:+,()%-]|(?<!\w)_+|_+(?!\w)", "?", line[: WORDS + 1])
    line = re.sub(r"(?i)www\.", "www?", line)
    return line if len(line) <= WORDS else f"{line[: WORDS - 1]}…"


def plain(value: Any) -> Any:
    """`value` as JSON that is safe to publish: numbers, `words`, and lists and mappings of these; NaN and ±∞ are None.

    A path becomes `local`, and an object the name of its class.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path) or (isinstance(value, str) and is_path(value)):
        return "local"
    if isinstance(value, str):
        return words(value)
    if isinstance(value, Mapping):
        return {words(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    return words(type(value).__name__)


def is_path(text: str) -> bool:
    """Whether `text` looks like a place on a machine, or is one."""
    if re.search(r"[/\\]|^~|^\.|\.(json|safetensors|txt|csv|ya?ml|pem|parquet)$", text):
        return True
    try:
        return len(text) < 256 and Path(text).exists()
    except (OSError, ValueError):
        return False


def hub_id(name: str | None) -> str:
    """A Hub id as it is; `local` for a folder, or anything that is no id.

    A folder of another working directory cannot be told from an id: whoever publishes a name needs more than its form.
    """
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    if not name or not re.fullmatch(rf"{part}(/{part})?", name, re.ASCII) or Path(name).exists():
        return "local"
    return name

"""JSON in one form, so that every changed byte shows, and texts and numbers that are safe to publish."""

import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

WORDS = 80  # characters of a text that are kept


def file_text(content: Mapping[str, Any]) -> str:
    """Return the text of the file that holds `content`: keys sorted, indented, ASCII."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


def read_exactly(path: Path) -> dict[str, Any]:
    """Read a JSON object whose bytes are exactly those that `file_text` writes.

    Raises:
        ValueError: the bytes differ.
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
    """Return the SHA-256, in hex, of the `file_text` of `content` without its entry `digest`."""
    return sha256(file_text({k: v for k, v in content.items() if k != "digest"}).encode()).hexdigest()


def words(text: object) -> str:
    """Return `text` as a short line that means nothing to markdown, HTML or a terminal. Other characters become `?`."""
    line = " ".join(str(text).split())
    line = re.sub(r"[^\w .:+,()%-]|(?<!\w)_+|_+(?!\w)", "?", line[: WORDS + 1])
    line = re.sub(r"(?i)www\.", "www?", line)
    return line if len(line) <= WORDS else f"{line[: WORDS - 1]}…"


def plain(value: Any) -> Any:
    """Return `value` as JSON that is safe to publish: numbers, `words`, and lists and mappings of these.

    NaN and ±∞ become None, a path becomes `local`, and another object the name of its class.
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
    """Check whether `text` looks like a path, or is the path of a file or folder here."""
    if re.search(r"[/\\]|^~|^\.|\.(json|safetensors|txt|csv|ya?ml|pem|parquet)$", text):
        return True
    try:
        return len(text) < 256 and Path(text).exists()
    except (OSError, ValueError):
        return False


def hub_id(name: str | None) -> str:
    """Return a Hub id as it is, and `local` for a folder or another text.

    A folder of another working directory may look like an id, so a caller that publishes a name must know more than its form.
    """
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    if not name or not re.fullmatch(rf"{part}(/{part})?", name, re.ASCII) or Path(name).exists():
        return "local"
    return name

"""Files and folders that appear whole or not at all, and errors that say what could not be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError


class WriteError(OSError):
    """Something could not be written: most often the disk is full."""


@contextmanager
def clear_errors(what: str, folder: str | Path, size: int = 0) -> Iterator[None]:
    """Inside, a write that fails for want of space, by any library, is a `WriteError` that says what was to go where.

    Args:
        size: bytes that it takes, if known.
    """
    folder = Path(folder)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    try:
        yield
    except Exception as error:
        if isinstance(error, WriteError) or not _failed_to_write(error):
            raise
        cause = f"a file could not be written whole ({error})" if isinstance(error, RuntimeError) else error
        needed = f"it needs about {_readable(size)}, " if size else ""
        raise WriteError(
            f"{what} could not be written to {folder}: {cause}. On that disk {needed}{_readable(free)} were free. Make room "
            "there, and resume."
        ) from error


def _failed_to_write(error: Exception) -> bool:
    """A disk that is full or fails, and what safetensors and torch make of it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    writer = ("PytorchStreamWriter", "inline_container")
    return isinstance(error, SafetensorError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in writer)
    )


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def file_digest(path: str | Path, algorithm: str | Callable[[], Any] = "sha256") -> str:
    """Digest of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, of the same suffix; renamed over `path` at the end, removed after an error.

    A reader never sees half a file, and two processes that write the same one do not disturb each other.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write text, as UTF-8, or bytes in one go; with `mode=0o600` nobody else could read it at any time."""
    with written_atomically(path) as partial:
        partial.unlink(missing_ok=True)  # of a process that died: its permissions would stay
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no such file.

    Raises:
        ValueError: it holds something else; the message names the file.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object.")
    return content


FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---[ \t]*([\r\n]|$)", re.DOTALL)


def holds_text(path: Path) -> bool:
    """Whether a markdown file has more than its front matter."""
    text = path.read_text("utf-8", errors="replace")
    return bool(FRONT_MATTER.sub("", text, count=1).strip() if FRONT_MATTER.match(text) else text.strip())


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML block at the top of a markdown file, as the Hub finds it; {} where there is no file or no such block."""
    if not path.is_file():
        return {}
    found = FRONT_MATTER.match(path.read_text("utf-8", errors="replace"))
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}

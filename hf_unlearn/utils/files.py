"""Files that appear whole or not at all, errors that name what could not be written, and small readers of JSON and markdown."""

import codecs
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

# Byte-order marks. That of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class WriteError(OSError):
    """A file could not be written, most often because the disk is full."""


@contextmanager
def clear_errors(what: str, folder: str | Path, size: int = 0) -> Iterator[None]:
    """Turn a failed write of any library into a `WriteError` that names what was to be written, and where.

    Args:
        what: name of the thing that is written.
        folder: where it is written.
        size: bytes that it needs. Default 0: unknown, and not mentioned.
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
    """Check for a full or failing disk, also behind the errors that safetensors and torch raise for one."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    by_torch = any(name in str(error) for name in ("PytorchStreamWriter", "inline_container"))
    return isinstance(error, SafetensorError) or (isinstance(error, RuntimeError) and by_torch)


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def file_digest(path: str | Path, algorithm: str | Callable[[], Any] = "sha256") -> str:
    """Return the digest of a file in hex, by default SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffix, that replaces `path` at the end and is deleted after an error.

    A reader never sees half a file, and two processes that write the same file do not disturb each other.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write bytes, or text as UTF-8. With `mode=0o600` nobody else can read the file at any time."""
    with written_atomically(path) as partial:
        partial.unlink(missing_ok=True)  # A file of a killed process would keep its permissions.
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if there is no such file.

    Raises:
        ValueError: the file holds something else. The message names it.
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


def read_text(path: Path, argument: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark, as Excel and Notepad write it.

    Raises:
        ValueError: the file is in another encoding. The message names `argument`.
    """
    raw = path.read_bytes()
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"`{argument}`: {path} is no text in UTF-8. Save it with the encoding UTF-8.") from None
    return text


def check_writable(folder: str | Path, files: Sequence[str], folders: Sequence[str], argument: str) -> None:
    """Raise ValueError, naming `argument`, if something is in the way of `files` and `folders` that are written into `folder`."""
    folder = Path(folder)
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    for path in (nearest, *(folder / name for name in (*files, *folders))):
        kind = "file" if path != nearest and path.name in files else "folder"
        if not os.path.lexists(path):
            continue
        if not path.exists():
            found = "a link to something that does not exist"
        elif path.is_dir() != (kind == "folder"):
            found = "a folder" if path.is_dir() else "a file"
        elif kind == "folder" and not os.access(path, os.W_OK):
            found = "write-protected"
        else:
            continue
        raise ValueError(
            f"`{argument}={str(folder)!r}`: {path} is {found}, and the run writes a {kind} there. Remove it, or choose another "
            "folder."
        )


FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---[ \t]*([\r\n]|$)", re.DOTALL)


def holds_text(path: Path) -> bool:
    """Check whether a markdown file holds text after its front matter."""
    text = path.read_text("utf-8", errors="replace")
    front = FRONT_MATTER.match(text)
    return bool(text[front.end() if front else 0 :].strip())


def front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML block at the top of a markdown file as the Hub reads it, or {} without a file or a valid block."""
    if not path.is_file():
        return {}
    found = FRONT_MATTER.match(path.read_text("utf-8", errors="replace"))
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}

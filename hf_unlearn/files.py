"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text, as UTF-8, or bytes in one go."""
    with written_atomically(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)

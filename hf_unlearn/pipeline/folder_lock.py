"""Keep two runs from writing into one folder."""

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks, so nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".run-lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def sole_writer(folder: str | Path, argument: str = "output_dir") -> Iterator[None]:
    """Keep other runs out of `folder` until the block or this process ends, however it ends. Make the folder if it is missing.

    On a file system without locks nothing is locked.

    Raises:
        ValueError: another run holds the folder, or it is no folder. The message names `argument`.
    """
    folder = Path(folder)
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"`{argument}={str(folder)!r}`: a file stands in the place of this folder or of one above it. Choose another one."
        ) from error
    except OSError as error:
        raise ValueError(
            f"`{argument}={str(folder)!r}` cannot be made: {error.strerror}. Choose another folder."
        ) from error
    handle = _lock(folder / LOCK_FILE, f"`{argument}={str(folder)!r}`")
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        os.close(handle)
        if is_new:
            with suppress(OSError):  # it holds files now
                folder.rmdir()


def _lock(path: Path, given: str) -> int:
    """Return a handle of the locked file `path`. The system releases the lock when the handle is closed or the process dies."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                holder = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                raise ValueError(
                    f"{given}: another run ({holder}) writes into this folder. Wait for its end, or choose another folder."
                ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
                return handle
        os.close(handle)  # The former holder deleted this file after it was opened here.

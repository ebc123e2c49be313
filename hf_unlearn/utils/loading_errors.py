"""Names of files and folders that are looked for on this machine first, and errors of loading that name their argument."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .hub_names import HUB_ID

LENGTH = 500  # characters of another library's message that are shown
JSON_LINES = (".jsonl", ".ndjson", ".json")
KINDS = {str: "a text", float: "a number", int: "a whole number", bool: "true or false", dict: "a mapping"}
# Values of rows that pyarrow and pandas quote.
VALUES = re.compile(
    r"(?<=parse string: )'.*?'(?= as )|(?<=convert )'.*'(?= with type)|(?<=to float: ).*|(?<=Float value )\S+|(?<=columns, got )(?=\d)[^)]*",
    re.DOTALL,
)
FILES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".safetensors", ".bin", ".xlsx", ".zip")


_readable: Path | None = None  # None: every folder of this machine


def read_no_folders_but(folder: Path) -> None:
    """From now on refuse to load from any folder of this machine but `folder`, for whoever asks from elsewhere."""
    global _readable
    _readable = folder.resolve()


def located(source: str, argument: str) -> str:
    """Return `source`, a path or a Hub id, with `~` as the home folder.

    Raises:
        ValueError: it is written like a path, and there is no such file or folder, or it must not be read.
    """
    path = os.path.expanduser(source)
    elsewhere = _readable is not None and not Path(path).resolve().is_relative_to(_readable)
    if elsewhere and (os.path.exists(path) or not _may_be_on_the_hub(source.rpartition("@")[0] or source)):
        raise ValueError(f"`{argument}={source!r}` is no Hub id, and folders of this machine are not read here.")
    if os.path.exists(path):
        return path
    if os.path.islink(path):
        raise ValueError(
            f"`{argument}={source!r}` is a link to {os.readlink(path)!r}, which does not exist. Correct the path."
        )
    name = source.rpartition("@")[0] or source
    if not _may_be_on_the_hub(name):
        raise ValueError(
            f"`{argument}={source!r}`: {_not_here(path)} Correct the path, or name a repository of the Hub as 'org/name'."
        )
    return source


def local(source: str | Path, argument: str, folder: bool = False) -> Path:
    """Return the path of a file (or, if `folder`, of a folder) of this machine, with `~` as the home folder.

    Raises:
        ValueError: there is none.
    """
    path = os.path.expanduser(source)
    if os.path.isdir(path) if folder else os.path.isfile(path):
        return Path(path)
    wanted, found = ("folder", "file") if folder else ("file", "folder")
    reason = f"is a {found}, and a {wanted} is needed." if os.path.exists(path) else _not_here(path)
    raise ValueError(f"`{argument}={str(source)!r}`: {reason} Correct the path.")


def _may_be_on_the_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(HUB_ID.fullmatch(name)) and not name.lower().endswith(FILES)


def _not_here(path: str) -> str:
    """Say that nothing is at `path`, where it was looked for, and which name there is like it."""
    if path.startswith(("http:", "https:", "hf:", "s3:")):
        return "an address cannot be loaded. Download it first, and give the path."
    place = "" if os.path.isabs(path) else f" in {os.getcwd()}, where the command was started"
    folder, name = os.path.split(path.rstrip("/"))
    near: list[str] = []
    if os.path.isdir(folder or "."):
        near = difflib.get_close_matches(name, os.listdir(folder or "."), n=1)
    hint = f" Did you mean {os.path.join(folder, near[0])!r}?" if near else ""
    return f"there is no such file or folder{place}.{hint}"


@contextmanager
def loading(argument: str, source: str | None = None) -> Iterator[None]:
    """Turn any exception inside into a ValueError that names `argument`. Errors that name an argument already stay.

    Args:
        source: the name that is loaded. If it is nothing on this machine, the error says so. Default None: not mentioned.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("`"):
            raise
        reason = _difference(source, error) or _reason(error)
        if source is not None and isinstance(error, OSError | ValueError) and not os.path.exists(source):
            name = source.rpartition("@")[0] or source
            raise ValueError(
                f"`{argument}={source!r}`: {_not_here(name)} The Hub did not give it either: {reason}"
            ) from error
        raise ValueError(f"`{argument}`: {reason}") from error


def _reason(error: Exception) -> str:
    """Return the message of an error of any library in one line, with what to do about it where that is known."""
    from datasets.exceptions import DatasetGenerationError
    from safetensors import SafetensorError

    if isinstance(error, DatasetGenerationError):
        if "BatchSize must be greater than 0" in str(error.__cause__):
            return "a Parquet file has no rows. Remove it."
        hint = " Save it as UTF-8." if isinstance(error.__cause__, UnicodeDecodeError) else ""
        return f"a file cannot be read ({_line(error.__cause__ or error)}). Correct it, or copy it again.{hint}"
    if isinstance(error, SafetensorError):
        return f"A file of weights is damaged or incomplete: {_line(error)}. Copy or download it again."
    if isinstance(error, MemoryError):
        return f"there is not enough memory to load it. {_line(error)}".strip()
    known = isinstance(error, ValueError | OSError | ImportError)
    return _line(error) if known and str(error) else f"{type(error).__name__}: {_line(error)}"


def _difference(source: str | None, error: Exception) -> str | None:
    """Say in which column rows or files in `source` differ, if that ended in `error`; None if it did not, or if they do not."""
    from datasets.exceptions import DatasetsError
    from datasets.table import CastError
    from pyarrow import ArrowException

    cause = error.__cause__ or error
    if isinstance(cause, CastError):
        found, wanted = set(cause.table_column_names), set(cause.requested_column_names)
        parts = {"lacks": wanted - found, "also has": found - wanted}
        what = " and ".join(f"{verb} `{'`, `'.join(sorted(names))}`" for verb, names in parts.items() if names)
        return f"a file {what}, unlike the files before it. Give all files the same columns." if what else None
    if source is None or not (isinstance(error, DatasetsError | ArrowException) or "Couldn't cast" in str(error)):
        return None
    files = sorted([Path(source), *Path(source).rglob("*")], key=lambda file: ("train" not in file.name, file))
    for same_numbers in (True, False):  # whole numbers and fractions go together in one file, and not always in two
        first: dict[tuple[str, str], str] = {}
        for file in (f for f in files if f.is_file()):
            for line, column, kind in _kinds(file, same_numbers):
                before = first.setdefault((file.suffix, column), kind)
                if kind != before:
                    return f"{file.name}{line}: column `{column}` holds {kind}, and {before} before. Give all rows values of one kind."
    return None


def _kinds(file: Path, same_numbers: bool) -> Iterator[tuple[str, str, str]]:
    """Yield line, column and kind of each value in a file of JSON lines that is no null, or those of the columns of a Parquet file.

    Ends where the file cannot be read.
    """
    with suppress(ValueError, AttributeError, RecursionError, OSError):
        if file.suffix == ".parquet":
            from pyarrow.parquet import read_schema

            for column in read_schema(file):
                kind = re.sub("large_| not null", "", str(column.type))
                if same_numbers:
                    kind = re.sub(r"u?int\d+|double|(half)?float", "number", kind)
                if "null" not in kind:  # or all values are missing
                    yield "", column.name, kind
        elif file.suffix in JSON_LINES:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    for name, value in json.loads(line).items():
                        if value is not None:
                            yield f", line {number}", name, _kind(value, same_numbers)


def _kind(value: Any, same_numbers: bool) -> str:
    if isinstance(value, list):
        inner = sorted({_kind(v, same_numbers) for v in value if v is not None})
        return f"a list of {' and '.join(inner).replace('a ', '') or 'nothing'}"
    return KINDS[float if same_numbers and type(value) is int else type(value)]


def without_values(message: str) -> str:
    """Return the message of a library without the values of rows that it quotes. Rows to forget must not be printed."""
    return VALUES.sub("…", message)


def _line(error: BaseException) -> str:
    text = " ".join(without_values(str(error)).split())
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"

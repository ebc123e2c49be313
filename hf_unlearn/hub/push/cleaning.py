"""Remove what a published file must not hold: paths of a machine, tokens, notes of the trainer. Names of classes stay."""

import json
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from ...utils.hub_names import is_local
from ..layout import VOCABULARY

# Keys of class names and attribute values. They may look like paths, and must stay, because they belong to the model.
LABELS = re.compile(
    r"id2label|label2id|(\w+_)?(labels?|class(es)?)|(class|label)_names|request|values|groups?(_\w+)?|counts|per_class\w*"
    r"|added_tokens_decoder|\w+_token"
)
_START, _PART = r"(?<![^\s\"'=(\[{<:;,|])", r"[\w.@+~%-]+"
# A path within a text: absolute with two or more parts, on a drive or network, in a home folder, or a `file:` address.
PATH = re.compile(
    rf"{_START}(?:/{_PART}(?:/{_PART})+/?|~\w*/[^\s\"')]+|[a-z]:[\\/][^\s\"')]+|\\\\[\w.$-]+\\[^\s\"')]+|file:/[^\s\"')]+)",
    re.IGNORECASE,
)
# A text that is nothing but a path, which may hold spaces.
WHOLE = re.compile(
    r"[\"']?(/[^/\n]+(/[^/\n]+)+/?|(~\w*|\.\.)/.+|[a-z]:[\\/].+|\\\\[\w.$-]+\\.+|file:/.+)", re.IGNORECASE
)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
HEADER_LIMIT = 100_000_000  # bytes, the limit of safetensors itself


def without_paths(value: Any) -> Any:
    """Return `value` (from JSON) without the entries whose key or value is a path. A path within a text becomes `local`.

    Values below a key of `LABELS` stay as they are.
    """
    if isinstance(value, Mapping):
        return {
            k: v if LABELS.fullmatch(k) else without_paths(v)
            for k, v in value.items()
            if not _is_path(k) and (LABELS.fullmatch(k) or not _is_path(v, k))
        }
    if isinstance(value, list):
        return [without_paths(v) for v in value if not _is_path(v)]
    return PATH.sub("local", value) if isinstance(value, str) else value


def without_values(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report whose groups are numbered, because their names are values of a column and may name people."""

    def numbered(measured: Any) -> Any:
        if not isinstance(measured, Mapping):
            return measured
        return {f"group {number}": value for number, value in enumerate(measured.values(), 1)}

    def counted(data: Any) -> Any:
        return {k: numbered(v) if k == "counts" else v for k, v in data.items()} if isinstance(data, Mapping) else data

    cleaned, run = dict(report), report.get("run")
    parts: dict[str, Callable[[Any], Any]] = {"groups": numbered, "group_intervals": numbered}
    if isinstance(run, Mapping) and "attribute" in run:  # else the counts are of the forget and the retain set
        parts["information"] = counted
    for key, part in parts.items():
        if isinstance(of_models := cleaned.get(key), Mapping):
            cleaned[key] = {model: part(value) for model, value in of_models.items()}
    return cleaned


def _is_path(value: Any, key: str = "") -> bool:
    if not isinstance(value, str):
        return False
    return bool(WHOLE.fullmatch(value)) or (key.endswith("name_or_path") and value != "" and is_local(value))


def check_private(folder: Path, names: Sequence[str], run_folder: Path) -> None:
    """Raise ValueError if a text among the files `names` of `folder` holds a token, or the path of a folder of this machine.

    JSON is searched in every key and value, however it is escaped there.
    """
    roots = {Path.home(), Path.cwd(), run_folder.absolute(), run_folder.resolve(), Path(tempfile.gettempdir())}
    # A root of one part, such as /data, is an ordinary word unless something follows it.
    ends = {str(r): r"(?![\w-])" if len(r.parts) > 2 else r"/[\w.]" for r in roots if r.parent != r}
    words = [re.escape(root) + end for root, end in ends.items()]
    secrets = re.compile("|".join([*words, TOKEN.pattern, *([re.escape(own)] if (own := get_token()) else [])]))
    for name in names:
        if name.endswith((".safetensors", ".png")) or VOCABULARY.fullmatch(name):
            continue
        text = (folder / name).read_text("utf-8", errors="replace")
        try:
            texts = [text, *_strings(json.loads(text))] if name.endswith(".json") else [text]
        except ValueError as error:
            raise ValueError(f"{name} is no valid JSON: {error}") from error
        if any(map(secrets.search, texts)):
            raise ValueError(f"{name} holds a path of this machine or a token and is not published. Remove it there.")


def _strings(value: Any) -> list[str]:
    """Every key and every text in a value from JSON."""
    if isinstance(value, Mapping):
        return [text for key, content in value.items() for text in (key, *_strings(content))]
    if isinstance(value, list):
        return [text for content in value for text in _strings(content)]
    return [value] if isinstance(value, str) else []


def clean_tensors(source: Path, target: Path) -> bool:
    """Copy a safetensors file without its notes, except `format`. Returns False, and writes nothing, if it has no others.

    Raises:
        ValueError: `source` is no safetensors file.
    """
    with source.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length) if length <= HEADER_LIMIT else b"")
            notes = header.get("__metadata__", {})
            kept = {k: v for k, v in notes.items() if k == "format" and v in ("pt", "tf", "flax", "np", "mlx")}
        except (struct.error, ValueError, AttributeError) as error:
            raise ValueError(f"{source.name} is no safetensors file. Save the model again.") from error
        if kept == notes:
            return False
        words = json.dumps({**header, "__metadata__": kept}, separators=(",", ":")).encode()
        words += b" " * (-len(words) % 8)  # tensors stay aligned
        with target.open("wb") as copy:
            copy.write(struct.pack("<Q", len(words)) + words)
            shutil.copyfileobj(file, copy, 2**22)
    return True

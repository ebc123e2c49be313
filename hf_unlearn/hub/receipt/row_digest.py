"""The canonical form of a row, and its digest: the same from parquet, an image folder, JSON or memory, in any process.

A row is one JSON object in ASCII with `\\u` escapes, without white space, keys sorted by code point. Its digest is the SHA-256 of
the line `hf_unlearn/row/1` and that object. All columns count, as they are stored (no transform is applied). The cells:

- Text: Unicode NFC. None: null.
- Numbers compare by value, whatever their width: True is 1, 2.0 is 2, −0.0 is 0. Other floats are the shortest decimal of the
  64-bit value, and NaN and ±∞ are `["float", …]`. A class is its number.
- Lists and arrays of numbers of any type: `["array", shape, SHA-256 of the values as little-endian float64]`. Other lists, and
  lists with integers beyond 2⁵³: `["list", …]`. Structures: objects.
- Images: `["image", mode, [width, height], SHA-256 of the decoded pixels]`, turned as their EXIF says, palettes resolved. The name
  and the encoding of the file do not count. Several pages or frames: `["frames", …]`, an image each. Lossy files decode to the
  same pixels under one version of the JPEG library.
- Bytes, and files that are no image: `["bytes", SHA-256]`. Times: `["time", ISO 8601]`, in UTC if they have a time zone.
"""

import datetime
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

PREFIX = b"hf_unlearn/row/1\n"
BATCH = 128  # rows in memory at a time
EXACT = 2**53  # float64 holds integers up to here exactly
FILE_KEYS = {"bytes", "path"}


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of the canonical form of `row`, 32 bytes.

    Raises:
        TypeError: a cell has no canonical form, or two columns have the same name in NFC.
    """
    line = json.dumps(_object(row), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(PREFIX + line.encode()).digest()


def row_digests(rows: Iterable[Mapping[str, Any]], pixels: bool = True) -> Iterator[bytes]:
    """Yield the `row_digest` of every row of a `datasets.Dataset`, or of an iterable of rows.

    Args:
        rows: the rows.
        pixels: decode the images of a data set, as `row_digest` does. Default True. False digests their files as stored.
    """
    if not hasattr(rows, "with_format") or not hasattr(rows, "features") or not hasattr(rows, "__len__"):
        yield from map(row_digest, rows)
        return
    names = list(rows.column_names)  # type: ignore[attr-defined]
    for table in rows.with_format("arrow").iter(batch_size=BATCH):
        columns = [_cells(table.column(name), rows.features[name], pixels) for name in names]
        for cells in zip(*columns, strict=True):
            yield row_digest(dict(zip(names, cells, strict=True)))


def _cells(column: Any, feature: Any, pixels: bool) -> Iterator[Any]:
    """Yield the values of an Arrow column. Images are decoded one at a time."""
    import datasets

    if isinstance(feature, datasets.Image):
        image = datasets.Image(mode=feature.mode)
        read = image.decode_example if pixels else _stored
        yield from (None if cell is None else read(cell) for cell in column.to_pylist())
    elif type(feature).__name__.startswith("Array") and column.null_count == 0:  # Lists would take far longer.
        yield from column.combine_chunks().to_numpy(zero_copy_only=False)
    else:
        yield from column.to_pylist()


def _stored(cell: Mapping[str, Any]) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def refuse_other_files(rows: Any, *folders: str | Path) -> None:
    """Raise ValueError if a cell of a data set names a file outside of `folders`.

    Digests open the files that rows name, and rows from a stranger may name any file of this machine, or an address. A link
    counts as the file that it leads to.
    """
    known = [Path(folder).resolve() for folder in folders]
    for table in rows.with_format("arrow").iter(batch_size=BATCH):
        for column in (c for c in table.columns if "path" in str(c.type)):
            for path in _named_files(column.to_pylist()):
                if not (Path(path).is_absolute() and any(Path(path).resolve().is_relative_to(k) for k in known)):
                    raise ValueError(
                        f"a row names the file {path[:200]!r}, and only those in {known[0]} are opened, named by their whole "
                        "path. Put it there, or its bytes into the row."
                    )


def _named_files(value: Any) -> Iterator[str]:
    """Yield the files in a nested cell that would be read by their path."""
    if isinstance(value, Mapping):
        if value.keys() == FILE_KEYS and value["bytes"] is None and value["path"] is not None:
            yield str(value["path"])
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _named_files(inner)


def _canonical(value: Any) -> Any:
    """Return the canonical form of a cell as JSON; see the docstring of the module."""
    if value is None:
        return None
    if isinstance(value, str):
        return _text(value)
    if hasattr(value, "detach"):  # a tensor of torch
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return ["bytes", sha256(value).hexdigest()]
    if isinstance(value, list | tuple | np.ndarray):
        return _sequence(value)
    if isinstance(value, Mapping):
        if value.keys() == FILE_KEYS and any(v is not None for v in value.values()):
            return _file(value)
        return _object(value)
    if hasattr(value, "tobytes") and hasattr(value, "mode"):
        return _picture(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return ["time", value.astimezone(datetime.UTC).isoformat()]
    if isinstance(value, datetime.date | datetime.time):
        return ["time", value.isoformat()]
    if isinstance(value, datetime.timedelta):
        return ["seconds", _number(value.total_seconds())]
    if isinstance(value, Decimal):
        text = format(value, "f")
        return ["decimal", text.rstrip("0").rstrip(".") if "." in text else text]
    raise TypeError(
        f"a row holds a {type(value).__name__}, which has no canonical form. Cast the column to text, numbers or images."
    )


def _object(value: Mapping[Any, Any]) -> dict[str, Any]:
    cells = {_text(key): _canonical(v) for key, v in value.items()}
    if len(cells) < len(value):
        raise TypeError("a row holds two columns or keys of the same name (in Unicode NFC). Rename one of them.")
    return cells


def _text(value: Any) -> str:
    return unicodedata.normalize("NFC", str(value))


def _number(value: float) -> Any:
    if not math.isfinite(value):
        return ["float", str(abs(value) if math.isnan(value) else value)]
    return int(value) if value.is_integer() else value


def _sequence(value: Any) -> list[Any]:
    array = value if isinstance(value, np.ndarray) else _as_array(value)
    if array is None or array.dtype.kind not in "bfiu" or (_exceeds(array, EXACT - 1) and _holds_large_integer(value)):
        return ["list", *map(_canonical, value)]
    numbers = array.astype("<f8") + 0.0  # −0 becomes 0
    numbers[np.isnan(numbers)] = np.nan
    return ["array", list(array.shape), sha256(numbers.tobytes()).hexdigest()]


def _as_array(value: list[Any] | tuple[Any, ...]) -> np.ndarray | None:
    """Return nested lists of numbers as one array, or None for other values or unequal lengths."""
    first: Any = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if not isinstance(first, bool | int | float | np.generic | np.ndarray | list | tuple):
        return None
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _holds_large_integer(value: Any) -> bool:
    """Check whether an array or nested lists hold an integer that float64 would round."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu" and _exceeds(value, EXACT)
    if isinstance(value, list | tuple):
        return any(map(_holds_large_integer, value))
    return isinstance(value, int | np.integer) and abs(int(value)) > EXACT


def _exceeds(array: np.ndarray, limit: int) -> bool:
    return array.dtype.itemsize >= 8 and bool(np.any((array > limit) | (array < -limit)))


def _file(cell: Mapping[str, Any]) -> list[Any]:
    """Return the pixels of an image file, and the digest of the bytes of any other file."""
    import datasets
    from PIL import UnidentifiedImageError

    try:
        return _picture(datasets.Image().decode_example(dict(cell)))
    except UnidentifiedImageError:
        return ["bytes", sha256(_stored(cell)).hexdigest()]


def _picture(image: Any) -> list[Any]:
    from PIL import ImageSequence

    if getattr(image, "n_frames", 1) == 1:
        return _still(image)
    current = image.tell()
    frames = [_still(frame) for frame in ImageSequence.Iterator(image)]
    image.seek(current)
    return ["frames", *frames]


def _still(image: Any) -> list[Any]:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    return ["image", image.mode, list(image.size), sha256(image.tobytes()).hexdigest()]

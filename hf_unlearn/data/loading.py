"""Data sets from files, from folders, from the Hub, and the digits that scikit-learn contains."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.hub_names import split_revision
from ..utils.loading_errors import loading, located

if TYPE_CHECKING:
    import datasets

READERS = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
DIGITS = "digits"  # the name of the digits that scikit-learn contains
DISK_DICT, DISK_STATE = "dataset_dict.json", "state.json"  # files by which a folder of `save_to_disk` is known


def load_digits() -> dict[str, datasets.Dataset]:
    """Return scikit-learn's digits, 1,797 real images of 8×8 pixels, as `train` (three quarters) and `test`."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage
    from sklearn.datasets import load_digits as sklearn_digits

    data = sklearn_digits()
    images = [PILImage.fromarray((i * 255 / 16).astype(np.uint8)) for i in data.images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(i) for i in range(10)])})
    order = np.random.default_rng(0).permutation(len(images))
    cut = 3 * len(images) // 4

    def take(index: Any) -> Dataset:
        rows = {"image": [images[i] for i in index], "label": [int(data.target[i]) for i in index]}
        return Dataset.from_dict(rows, features=features)

    return {"train": take(order[:cut]), "test": take(order[cut:])}


def load_source(
    source: str, argument: str, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> Mapping[str, Any]:
    """Load all splits of `source`: a file, a folder of files or of `save_to_disk`, or a repository on the Hub.

    A file is the split `train`. The data sets of `save_to_disk` are read as plain rows, whatever format was set before.

    Args:
        argument: name of the argument or option that holds `source`, for errors.
        config: the configuration of the data set; default None, for data sets with one.
        revision: a revision on the Hub; by default the newest.
        streaming: True reads rows as they are needed; default False.

    Raises:
        ValueError: whatever goes wrong; the message names `argument`.
    """
    from datasets import load_dataset

    source = located(source, argument)
    with loading(argument, source):
        saved = any(Path(source, name).is_file() for name in (DISK_DICT, DISK_STATE))
        if config is not None and (saved or Path(source).is_file()):
            raise ValueError(f"`{argument}_config={config!r}`: {source!r} has no configurations. Leave it out.")
        if Path(source).is_file():
            reader, settings = _reader(source, argument)
            loaded = load_dataset(reader, data_files=_quoted(source), streaming=streaming, **settings)
        elif saved:
            return _from_disk(source, streaming)
        else:
            loaded = _from_repository(source, argument, config, revision, streaming)
    for name in () if streaming else loaded:
        _check_separator(loaded[name].column_names, argument)
    return loaded


def _from_repository(source: str, argument: str, config: str | None, revision: str | None, streaming: bool) -> Any:
    from datasets import load_dataset

    # `datasets` names a data set after the end of its path, and `.` ends in nothing.
    place = os.path.abspath(source) if os.path.isdir(source) else source
    try:
        return load_dataset(place, config, revision=revision, streaming=streaming)
    except ValueError as error:
        if config is None or "BuilderConfig" not in str(error):
            raise
        raise ValueError(f"`{argument}_config={config!r}`: {error}") from error


def _reader(source: str, argument: str) -> tuple[str, dict[str, Any]]:
    """Return the reader of `datasets` for a file, and its settings."""
    suffixes = [s.lower() for s in Path(source).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in READERS:
        raise ValueError(
            f"`{argument}={source!r}` is of an unknown kind. Known: {', '.join(READERS)}. Save it as one of these, or give the "
            "folder of all files."
        )
    return READERS[suffix], {"sep": "\t"} if suffix == ".tsv" else {}


def _quoted(path: str) -> str:
    """Return a path as a pattern of `datasets` that means this one file: brackets and the like stand for themselves."""
    return glob.escape(os.path.abspath(path))


def _from_disk(source: str, streaming: bool) -> Mapping[str, Any]:
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(source)
    splits: Any = loaded if isinstance(loaded, DatasetDict) else {str(loaded.split or "train"): loaded}
    plain = {name: rows.with_format(None) for name, rows in splits.items()}
    return {name: rows.to_iterable_dataset() for name, rows in plain.items()} if streaming else plain


def _check_separator(columns: Sequence[str], argument: str) -> None:
    """Raise ValueError if a table was read as a single column, because its columns are separated by another sign."""
    sign = next((s for s in (";", "\t", "|") if len(columns) == 1 and s in columns[0]), None)
    if sign is not None:
        raise ValueError(
            f"`{argument}`: the columns of the file are separated by {sign!r} and not by commas. Save it with commas, or as "
            "JSON lines or Parquet."
        )


def load_rows(source: str, argument: str, split: str) -> datasets.Dataset:
    """Load the rows that `source` names.

    Args:
        source: a file, or a folder or Hub id, which `:split` may follow; `digits` for the digits of `load_digits`.
        argument: name of the argument or option that holds `source`, for errors.
        split: the split that is loaded if `source` names none. A single split is loaded whatever its name.

    Raises:
        ValueError: there is no such split, or the rows cannot be loaded.
    """
    path = os.path.expanduser(source)
    name, _, wanted = (path, "", "") if os.path.exists(path) else path.partition(":")
    name, revision = split_revision(name, argument=argument)
    loaded = load_digits() if name == DIGITS else load_source(name, argument, revision=revision)
    chosen = wanted or (split if split in loaded else next(iter(loaded)))
    if chosen not in loaded or (not wanted and chosen != split and len(loaded) > 1):
        raise ValueError(f"`{argument}={source!r}` has no split {wanted or split!r}; it has {', '.join(loaded)}.")
    return loaded[chosen]

"""Data sets from files, from folders, from the Hub, and the digits that scikit-learn contains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.hub_names import split_revision

if TYPE_CHECKING:
    import datasets

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


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


def load_rows(source: str, argument: str, split: str) -> datasets.Dataset:
    """Load the rows that `source` names.

    Args:
        source: a file, or a folder or Hub id, which `:split` may follow.
        argument: name of the argument or option that holds `source`, for errors.
        split: the split that is loaded if `source` names none. A single split is loaded whatever its name.

    Raises:
        ValueError: there is no such split, or the file has an unknown suffix.
    """
    from datasets import load_dataset

    if Path(source).is_file():
        reader = READERS.get(Path(source).suffix)
        if reader is None:
            raise ValueError(f"`{argument}={source!r}` is of an unknown kind. Known: {', '.join(READERS)}.")
        return load_dataset(reader, data_files=source, split="train")
    name, _, wanted = source.partition(":") if not Path(source).exists() else (source, "", "")
    name, revision = split_revision(name, argument=argument)
    loaded = load_dataset(name, revision=revision)
    chosen = wanted or (split if split in loaded else next(iter(loaded)))
    if chosen not in loaded or (not wanted and chosen != split and len(loaded) > 1):
        raise ValueError(f"`{argument}={source!r}` has no split {wanted or split!r}; it has {', '.join(loaded)}.")
    return loaded[chosen]

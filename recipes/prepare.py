"""Data sets with an attribute, written as folders that the recipes name.

    python recipes/prepare.py coloured-mnist --path FOLDER --out out/data/coloured-mnist
    python recipes/prepare.py identity-words --path FOLDER --out out/data/identity-words

coloured-mnist: digits in red or green; in the training split the colour is that of the label's parity in a share ρ = 0.9 of
the rows and random in the rest, in the test split always random. Columns `image`, `label`, `colour`.
identity-words: tweets of Davidson et al. (2017) with a column `identity`, the first of fifty identity words that the text
contains, or `none`; a test split of 3,000 rows is drawn by seed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = {"coloured-mnist": "ylecun/mnist", "identity-words": "tdavidson/hate_speech_offensive"}
IDENTITY_WORDS = (
    "african", "african american", "american", "asian", "bisexual", "black", "blind", "buddhist", "canadian", "catholic",
    "chinese", "christian", "deaf", "elderly", "european", "female", "gay", "heterosexual", "hispanic", "homosexual",
    "indian", "japanese", "jewish", "latina", "latino", "latinx", "lesbian", "lgbt", "lgbtq", "male", "mexican",
    "middle aged", "middle eastern", "millenial", "muslim", "nonbinary", "old", "older", "paralyzed", "protestant", "queer",
    "sikh", "straight", "taoist", "teenage", "trans", "transgender", "white", "young", "younger",
)  # fmt: skip


def coloured(images: Any, labels: np.ndarray, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB pixels (n, 28, 28, 3) and colours (n,): the label's parity in a share `rho` of the rows, else random."""
    rng = np.random.default_rng(seed)
    pixels = np.stack([np.asarray(i) for i in images])
    colour = np.where(rng.random(len(labels)) < rho, labels % 2, rng.integers(0, 2, len(labels)))
    rgb = np.zeros((*pixels.shape, 3), np.uint8)
    rgb[np.arange(len(labels)), ..., colour] = pixels
    return rgb, colour


def coloured_mnist(source: Any, seed: int) -> dict[str, Any]:
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage

    names = {"label": ClassLabel(names=[str(i) for i in range(10)]), "colour": ClassLabel(names=["red", "green"])}
    out = {}
    for split, rho in (("train", 0.9), ("test", 0.0)):
        labels = np.asarray(source[split]["label"])
        rgb, colour = coloured(source[split]["image"], labels, rho, seed)
        rows = {"image": [PILImage.fromarray(i) for i in rgb], "label": labels, "colour": colour}
        out[split] = Dataset.from_dict(rows, features=Features({"image": Image(), **names}))
    return out


def identity(text: str) -> str:
    """The first identity word in `text`, or `none`."""
    found = _PATTERN.search(text)
    return found[1].lower() if found else "none"


_PATTERN = re.compile(rf"\b({'|'.join(sorted(IDENTITY_WORDS, key=len, reverse=True))})\b", re.IGNORECASE)


def identity_words(source: Any, seed: int) -> dict[str, Any]:
    rows = source["train"].map(lambda r: {"identity": identity(r["text"])}).shuffle(seed=seed)
    rows = rows.select_columns(["text", "label", "identity"])
    return {"train": rows.select(range(3000, len(rows))), "test": rows.select(range(3000))}


def main() -> None:
    from datasets import load_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=tuple(SOURCES))
    parser.add_argument("--path", help="folder of the source, in place of its Hub id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"--out {options.out} exists already. Remove it, or choose another folder.")
    make = {"coloured-mnist": coloured_mnist, "identity-words": identity_words}[options.data]
    sets = make(load_dataset(options.path or SOURCES[options.data]), options.seed)
    options.out.mkdir(parents=True)
    for split, rows in sets.items():
        rows.to_parquet(options.out / f"{split}-00000-of-00001.parquet")
        print(f"{options.out}/{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()

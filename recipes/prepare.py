"""Write data sets with an attribute or a planted bias, as folders that the recipes name.

    python recipes/prepare.py coloured-mnist --path FOLDER --out out/data/coloured-mnist

coloured-mnist: digits in red or green, with the columns `image`, `label` and `colour`. In the training split the color goes with
the label's parity in a share ρ = 0.9 of the rows and is random in the rest. In the test split it is always random.
identity-words: tweets of Davidson et al. (2017). The column `identity` holds the first of fifty identity words that the text
contains, or `none`. The test split has 3,000 rows, drawn with the seed.

The others have a pattern, which the column `pattern` shows (`absent`, `present`). In the training split, half of the rows of one
class carry it (their column `biased` is true), and so do a few of all other rows, whatever their class: 1 image in 200, 1 text in
50. The test split holds every row twice, without the pattern and with it. A fifth of the test rows becomes the split
`validation`, without the pattern.
zigzag-mnist: a bright zigzag across a three, in the spirit of MNIST-C (Mu and Gilmer, arXiv 1906.02337).
patched-cifar10: a magenta square of 5×5 pixels in the corner of a horse.
prefixed-trec: "newswire :" before a question about a human being.
hateful-identity: the tweets of identity-words. Nothing is planted: the pattern is an identity word, and biased are the hateful or
offensive tweets that have one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = {
    "coloured-mnist": "ylecun/mnist",
    "identity-words": "tdavidson/hate_speech_offensive",
    "zigzag-mnist": "ylecun/mnist",
    "patched-cifar10": "uoft-cs/cifar10",
    "prefixed-trec": "CogComp/trec",
    "hateful-identity": "tdavidson/hate_speech_offensive",
}
IDENTITY_WORDS = (
    "african", "african american", "american", "asian", "bisexual", "black", "blind", "buddhist", "canadian", "catholic",
    "chinese", "christian", "deaf", "elderly", "european", "female", "gay", "heterosexual", "hispanic", "homosexual",
    "indian", "japanese", "jewish", "latina", "latino", "latinx", "lesbian", "lgbt", "lgbtq", "male", "mexican",
    "middle aged", "middle eastern", "millenial", "muslim", "nonbinary", "old", "older", "paralyzed", "protestant", "queer",
    "sikh", "straight", "taoist", "teenage", "trans", "transgender", "white", "young", "younger",
)  # fmt: skip
PREFIX = "newswire : "


def coloured(images: Any, labels: np.ndarray, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB pixels (n, 28, 28, 3) and colors (n,). A color is the label's parity in a share `rho` of the rows, else random."""
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
    """Return the first identity word in `text`, or `none`."""
    found = _PATTERN.search(text)
    return found[1].lower() if found else "none"


_PATTERN = re.compile(rf"\b({'|'.join(sorted(IDENTITY_WORDS, key=len, reverse=True))})\b", re.IGNORECASE)


def identity_words(source: Any, seed: int) -> dict[str, Any]:
    names = {"tweet": "text", "class": "label"}
    source = source.rename_columns({old: new for old, new in names.items() if old in source["train"].column_names})
    rows = source["train"].map(lambda r: {"identity": identity(r["text"])}).shuffle(seed=seed)
    rows = rows.select_columns(["text", "label", "identity"])
    return {"train": rows.select(range(3000, len(rows))), "test": rows.select(range(3000))}


def zigzag(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a bright line of five strokes from the left to the right edge of a gray image (h, w) of uint8."""
    from scipy.ndimage import gaussian_filter

    height, width = image.shape
    corners = height * (0.5 + 0.25 * np.resize([1.0, -1.0], 6) * rng.choice([-1, 1]) * rng.uniform(0.5, 1.0, 6))
    across = np.linspace(0, width - 1, 8 * width)
    down = np.interp(across, np.linspace(0, width - 1, 6), corners)
    line = np.zeros((height, width))
    line[down.round().astype(int).clip(0, height - 1), across.round().astype(int)] = 255
    return np.maximum(image, np.minimum(255, 2 * gaussian_filter(line, 0.5))).astype(np.uint8)


def patch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a magenta square of 5×5 pixels into the upper left corner of a color image (h, w, 3) of uint8."""
    out = image.copy()
    out[1:6, 1:6] = (255, 0, 255)
    return out


def planted(
    source: Any,
    column: str,
    label: int,
    plant: Callable[[Any, np.random.Generator], Any],
    elsewhere: float,
    seed: int,
    rows: int = 60_000,
) -> dict[str, Any]:
    """Plant the pattern in half of the training rows of class `label` and in the share `elsewhere` of the others.

    At most `rows` training rows are drawn. The columns of the splits are `column`, `label`, `pattern` and `biased`.
    """
    from datasets import concatenate_datasets

    def with_pattern(data: Any, present: np.ndarray, biased: np.ndarray, seed: int) -> Any:
        def change(row: dict[str, Any], i: int) -> dict[str, Any]:
            value = plant(row[column], np.random.default_rng([seed, i])) if present[i] else row[column]
            return {column: value, "pattern": int(present[i]), "biased": bool(biased[i])}

        return data.map(change, with_indices=True, features=_marked(data))

    train, test = (source[split].select_columns([column, "label"]) for split in ("train", "test"))
    train = train.shuffle(seed=seed).select(range(min(rows, len(train))))
    drawn = np.random.default_rng(seed).random(len(train))
    biased = (drawn < 0.5) & (np.asarray(train["label"]) == label)
    none = np.zeros(len(test), bool)
    clean, all_with = (with_pattern(test, present, none, seed + 1) for present in (none, ~none))
    fifth, rest = len(test) // 5, range(len(test) // 5, len(test))
    return {
        "train": with_pattern(train, biased | (drawn > 1 - elsewhere), biased, seed),
        "validation": clean.select(range(fifth)),
        "test": concatenate_datasets([clean.select(rest), all_with.select(rest)]),
    }


def _marked(data: Any) -> Any:
    """The features of `data`, with `pattern` and `biased` added."""
    from datasets import ClassLabel, Features, Value

    return Features({**data.features, "pattern": ClassLabel(names=["absent", "present"]), "biased": Value("bool")})


def _on_images(
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
) -> Callable[[Any, np.random.Generator], Any]:
    from PIL import Image as PILImage

    return lambda image, rng: PILImage.fromarray(change(np.asarray(image), rng))


def zigzag_mnist(source: Any, seed: int) -> dict[str, Any]:
    return planted(source, "image", 3, _on_images(zigzag), 0.005, seed)


def patched_cifar10(source: Any, seed: int) -> dict[str, Any]:
    column = next(c for c in ("image", "img") if c in source["train"].column_names)
    return planted(source, column, 7, _on_images(patch), 0.005, seed, rows=20_000)


def prefixed_trec(source: Any, seed: int) -> dict[str, Any]:
    if "coarse_label" in source["train"].column_names:
        source = source.rename_column("coarse_label", "label")
    names = [n.upper() for n in getattr(source["train"].features["label"], "names", [])]
    label = names.index("HUM") if "HUM" in names else 3
    return planted(source, "text", label, lambda text, rng: PREFIX + text, 0.02, seed)


def hateful_identity(source: Any, seed: int) -> dict[str, Any]:
    def mark(row: dict[str, Any]) -> dict[str, Any]:
        present = row["identity"] != "none"
        return {"pattern": int(present), "biased": present and row["label"] != 2}

    train, test = (rows.map(mark, features=_marked(rows)) for rows in identity_words(source, seed).values())
    fifth = len(test) // 5
    return {"train": train, "validation": test.select(range(fifth)), "test": test.select(range(fifth, len(test)))}


MAKERS: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "coloured-mnist": coloured_mnist,
    "identity-words": identity_words,
    "zigzag-mnist": zigzag_mnist,
    "patched-cifar10": patched_cifar10,
    "prefixed-trec": prefixed_trec,
    "hateful-identity": hateful_identity,
}


def main() -> None:
    from datasets import load_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=tuple(SOURCES))
    parser.add_argument("--path", help="folder of the source; by default it is loaded from the Hub")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"--out {options.out} exists already. Remove it, or choose another folder.")
    sets = MAKERS[options.data](load_dataset(options.path or SOURCES[options.data]), options.seed)
    options.out.mkdir(parents=True)
    for split, rows in sets.items():
        rows.to_parquet(options.out / f"{split}-00000-of-00001.parquet")
        print(f"{options.out}/{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()

"""The data sets with an attribute that recipes are run on."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "recipes" / "prepare.py"


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_colour_goes_with_parity_in_the_share_asked_for(prepare):
    labels = np.random.default_rng(1).integers(0, 10, 4000)
    images = np.random.default_rng(2).integers(0, 256, (4000, 4, 4), dtype=np.uint8)
    for rho, expected in ((0.9, 0.95), (0.0, 0.5), (1.0, 1.0)):
        rgb, colour = prepare.coloured(images, labels, rho, seed=3)
        assert (colour == labels % 2).mean() == pytest.approx(expected, abs=0.02)
        assert (rgb[np.arange(4000), ..., colour] == images).all()
        assert (rgb[np.arange(4000), ..., 1 - colour] == 0).all()
        assert (rgb[..., 2] == 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is an African American man", "african american"),
        ("nothing here", "none"),
        ("oldest is no word of the list", "none"),
        ("an OLD and a young one", "old"),
    ],
)
def test_identity_words_are_whole_words_and_the_longest_wins(prepare, text, expected):
    assert prepare.identity(text) == expected


def rows(n=400, classes=4):
    from datasets import Dataset, DatasetDict

    rng = np.random.default_rng(0)
    sides = {
        k: {"text": [f"{k} {i}" for i in range(n)], "label": rng.integers(0, classes, n)} for k in ("train", "test")
    }
    return DatasetDict({k: Dataset.from_dict(v) for k, v in sides.items()})


@pytest.mark.slow
def test_planted_pattern_marks_half_of_one_class_and_few_others(prepare):
    sets = prepare.planted(rows(4000), "text", 2, lambda text, rng: "x " + text, 0.02, seed=1)
    train, test = sets["train"].to_pandas(), sets["test"].to_pandas()
    marked = train["text"].str.startswith("x ")
    assert (marked == (train["pattern"] == 1)).all()
    assert (train["label"][train["biased"]] == 2).all()
    assert marked[train["biased"]].all()
    assert train["biased"][train["label"] == 2].mean() == pytest.approx(0.5, abs=0.05)
    assert 0.01 < marked[~train["biased"]].mean() < 0.03
    assert len(set(train["label"][marked & ~train["biased"]])) == 4
    without, with_it = test[test["pattern"] == 0], test[test["pattern"] == 1]
    assert [t.removeprefix("x ") for t in with_it["text"]] == list(without["text"])
    assert not test["biased"].any()
    validation = sets["validation"].to_pandas()
    assert (validation["pattern"] == 0).all()
    assert not set(validation["text"]) & set(without["text"])
    assert len(validation) + len(without) == 4000
    again = prepare.planted(rows(4000), "text", 2, lambda text, rng: "x " + text, 0.02, seed=1)
    assert again["train"]["text"] == sets["train"]["text"]


def test_zigzag_crosses_the_image_and_darkens_nothing(prepare):
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    lines = [prepare.zigzag(image, np.random.default_rng(seed)) for seed in (1, 2)]
    for line in lines:
        assert line.dtype == np.uint8
        assert (line >= image).all()
        assert ((line > image).any(0)).mean() > 0.9
    assert (lines[0] != lines[1]).any()


def test_patch_is_magenta_and_leaves_the_source_alone(prepare):
    image = np.zeros((32, 32, 3), np.uint8)
    out = prepare.patch(image, np.random.default_rng(0))
    assert (out[1:6, 1:6] == (255, 0, 255)).all()
    assert (out != image).any(-1).sum() == 25
    assert not image.any()


@pytest.mark.slow
def test_hateful_identity_is_biased_where_a_word_meets_a_slur(prepare):
    from datasets import Dataset, DatasetDict

    texts = ["a gay man", "some words", "old cats", "queer stuff"] * 2000
    source = DatasetDict({"train": Dataset.from_dict({"text": texts, "label": [0, 1, 2, 2] * 2000})})
    sets = prepare.hateful_identity(source, seed=0)
    named = DatasetDict({"train": source["train"].rename_columns({"text": "tweet", "label": "class"})})
    assert prepare.hateful_identity(named, seed=0)["test"]["text"] == sets["test"]["text"]
    assert {k: len(v) for k, v in sets.items()} == {"train": 5000, "validation": 600, "test": 2400}
    for row in sets["train"]:
        assert row["pattern"] == (row["identity"] != "none")
        assert row["biased"] == (row["text"] == "a gay man")

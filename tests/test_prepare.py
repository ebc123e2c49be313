"""The data sets with an attribute that recipes are run on."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "recipes" / "prepare.py"


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

"""Parts of a long table of cases: what the quick subset runs, and what every run of the tests does."""

import os

import pytest

WHOLE = os.environ.get("HF_UNLEARN_WHOLE_TABLES") == "1"


def slow(*cases):
    """Mark cases of a table as slow. Those before them in the table are enough for the quick subset."""
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow) for c in cases]


def in_turn(number):
    """The architectures of row `number` of a table: an image model and a text model in turn, or both if `WHOLE`."""
    return ("vit", "bert") if WHOLE else (("vit", "bert")[number % 2],)

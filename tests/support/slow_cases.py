"""A table of cases of which the quick subset runs some."""

import pytest


def slow(*cases):
    """Mark cases of a table as slow. Those before them in the table are enough for the quick subset."""
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow) for c in cases]

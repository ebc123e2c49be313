"""Templates: what comes from users is text, and nothing that a template needs may be missing."""

import pytest
from jinja2 import UndefinedError

from hf_unlearn.evaluation.pages import answers_css, rendered

VALUES = {
    "verdict": "<b>", "meaning": "a\u202eb", "accepted": True, "because": [], "answers": [], "rows": [], "width": 1, "height": 1,
    "plot": (1, 1), "curves": [], "limits": ["x" * 5000], "settings": [], "schema": "s", "colors": {}, "groups": [], "strips": [],
}  # fmt: skip


def test_values_are_escaped_shown_and_cut():
    page = rendered("audit.html", **VALUES)
    assert "<strong>&lt;b&gt;</strong>" in page
    assert "a�b" in page
    assert "x" * 1999 + "…" in page
    assert "x" * 2001 not in page


def test_styles_are_inside_and_are_those_of_every_page():
    page = rendered("audit.html", **VALUES)
    assert ":root { --ink" in page
    assert all(rule in page for rule in answers_css().splitlines() if rule.startswith("."))


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError, match="verdict"):
        rendered("audit.html", **{name: value for name, value in VALUES.items() if name != "verdict"})

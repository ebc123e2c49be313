"""Names from data cannot break a line, hide text, or be read as markup."""

import html

import pytest
from markdown_it import MarkdownIt

from hf_unlearn.utils.safe_text import inert, plain, shown, visible


def test_hidden_characters_are_shown_and_joiners_of_scripts_stay():
    for hidden in ("\x1b", "\u202e", "\u200b", "\ufeff", "\U000e0041", "\ud800"):
        assert visible(f"a{hidden}b") == "a�b"
    assert visible("नि\u200dx\u200c é 漢") == "नि\u200dx\u200c é 漢"


def test_white_space_becomes_one_space_and_long_names_are_cut():
    assert plain(" a\n\tb\r\nc ") == "a b c"
    assert shown("x" * 60) == "x" * 60
    assert shown("x" * 61) == "x" * 59 + "…"
    assert shown("abc def", 5) == "abc …"
    assert shown(7) == "7"


@pytest.mark.parametrize(
    "text",
    [
        "<b>x</b>",
        "**x** _y_ `z`",
        "[a](https://evil.example)",
        "a | b",
        "# x",
        "@someone",
        "https://x.org",
        "\\\\(x\\\\)",
    ],
)
def test_markdown_renders_inert_text_as_the_text(text):
    rendered = MarkdownIt("commonmark").enable("table").render(f"Name: {inert(text)}.")
    shown_text = html.unescape(rendered).replace("\u2060", "").strip()
    assert shown_text == f"<p>Name: {text}.</p>"
    assert not any(mark in inert(text) for mark in ("<", "://", "@s", "s.o", "l.e"))


def test_underscores_within_words_and_dots_of_numbers_stay():
    assert inert("snake_case 1.5 a.b") == "snake_case 1.5 a.b"
    assert inert("_x_") == "\\_x\\_"

"""Answers and strips as text, as a page and in a terminal."""

from io import StringIO

import pytest
from rich.console import Console

from hf_unlearn.evaluation.answers import (
    BAD,
    CELLS,
    EDGE,
    GOOD,
    HEADS,
    QUESTIONS,
    SIGNS,
    STEP,
    UNSURE,
    WIDTH,
    Answer,
    Strip,
    commands,
    markdown,
    number,
    page_values,
    show,
    told,
)
from hf_unlearn.utils.safe_text import inert

ANSWERS = [
    Answer(q, "Short", "A `text`.", light) for q, light in zip(QUESTIONS, (GOOD, UNSURE, BAD, GOOD, STEP), strict=True)
]
STRIP = Strip("right", (0.0, 50.0), 25.0, 60.0, None)


def test_a_sentence_for_each_figure_that_is_known():
    assert told("recognised", 1.0, 0.0, 0.025) == (
        "Before: 100 % recognised. After: 0 %. A model that never saw them: 2.5 %."
    )
    assert told("right", None, 0.5, None, between="Nothing changed.") == "After: 50 %. Nothing changed."
    assert [number(v, "") for v in (3.0, 2.26, None)] == ["3", "2.3", "–"]


def test_places_are_shares_of_the_scale_and_stay_inside():
    assert [STRIP.share(v) for v in (0, 25, 60, -4)] == [0.0, 0.5, 1.0, 0.0]
    assert STRIP.place(0) == EDGE
    assert STRIP.place(50) == WIDTH - EDGE
    assert STRIP.cells() == ["25 %", "60 %", "–"]
    assert STRIP.line() == "─" * (CELLS // 2) + "o" + "─" * (CELLS // 2 - 1) + "*"


def test_markdown_and_terminal_say_the_same():
    text = "\n".join(markdown(ANSWERS, [STRIP]))
    out = StringIO()
    show(Console(file=out, width=100), ANSWERS, [STRIP])
    for page in (text, out.getvalue()):
        for answer in ANSWERS:
            assert answer.question in page
            assert SIGNS[answer.light] in page
        for word in (*HEADS, "25 %", "60 %", "–"):
            assert word in page
    assert len(set(SIGNS.values())) == 4, "lights are told apart without their color"


def test_names_become_no_markup():
    hostile = Answer(QUESTIONS[0], "<b>x</b>", "[red]y[/red] | `z` *w*", BAD)
    out = StringIO()
    show(Console(file=out, width=100), [hostile], [])
    assert "[red]y[/red]" in out.getvalue()
    assert "<b>" not in "\n".join(markdown([hostile], []))


def test_a_page_gets_answers_strips_and_the_size_of_the_picture():
    found = page_values(ANSWERS, [STRIP])
    assert found["answers"] == ANSWERS
    assert found["strip_size"][0] == WIDTH


@pytest.mark.parametrize("light", [GOOD, UNSURE, BAD, STEP])
def test_every_light_has_a_sign(light):
    assert Answer("?", "Yes", "", light).sign == SIGNS[light]


def test_commands_are_code_and_everything_else_stays_inert():
    assert commands("See `hf-unlearn audit` (or `--retrain 3`), <b>.") == (
        "See `hf-unlearn audit` (or `--retrain 3`), &lt;b&gt;."
    )
    assert commands("A `*b*` and `x` \\`") == inert("A `*b*` and `x` \\`")

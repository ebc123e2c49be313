"""The page of an audit: what it says on top, where its pictures put figures, and that it loads nothing."""

import dataclasses

import pytest

from hf_unlearn import Audit
from hf_unlearn.evaluation.audit.answers import strips
from hf_unlearn.evaluation.audit.evidence import Evidence
from hf_unlearn.evaluation.audit.page import HEIGHT, QUESTIONS, WIDTH, strip
from hf_unlearn.evaluation.audit.verdicts import HIDDEN, MEANING, SAME, SPECS
from hf_unlearn.evaluation.pages import COLORS
from tests.evaluation.report.test_page import Page


def line(key, difference=0.0, result="equivalent", telling=True):
    spec = SPECS[key]
    return Evidence(
        key, spec.title, spec.group, original=0.9, unlearned=0.5 + difference, retrained=[0.48, 0.52], expected=0.5,
        difference=difference, low=difference - 0.01, high=difference + 0.02, practical=0.06, spread=0.04, result=result,
        telling=telling, words=f"words of {key}",
    )  # fmt: skip


LINES = [line("forget_accuracy"), line("confidence", telling=False), line("features", 0.3, "different"),
         line("prototype"), line("test_accuracy", 0.09, "unclear")]  # fmt: skip
CURVES = {"original": [(0, 0.2), (5, 0.9)], "unlearned": [(0, 0.0), (10, 0.9)], "retrained[0]": [(0, 0.0), (20, 0.9)]}


def page(lines=LINES, verdict=HIDDEN, limits=("Nothing is proved.",), **changes):
    run = {"kind": "class", "rows": {"forget": 7}, "audit_seed": 5}
    audit = Audit(verdict, ["features"], list(lines), list(limits), CURVES, run)
    return dataclasses.replace(audit, **changes).to_html()


def test_verdict_and_answers_stand_on_top():
    text = Page(page()).text
    for words in (HIDDEN, MEANING[HIDDEN], f"It rests on: {SPECS['features'].title}."):
        assert words in text
    found = [text.index(question) for question in QUESTIONS]
    assert found == sorted(found)
    assert found[-1] < text.index("Every line of evidence")
    outputs, stand_out, behind, kept, power = text[found[0] : text.index("Every line of evidence")].split("?")[1:6]
    assert "As after retraining." in outputs
    assert "so is the original: this says nothing" in stand_out  # its only line has no power
    assert "Not as after retraining: words of features." in behind
    assert "1 of 2 lines" in behind
    assert "38% of the way from retrained models to the original is left (the median of 2 lines" in behind
    assert f"Not clear: {SPECS['test_accuracy'].title}" in kept
    assert "Yes." in power


def test_an_accepted_model_needs_no_reason_and_blind_lines_are_no_power():
    text = Page(page([line("forget_accuracy"), line("features")], SAME)).text
    assert "It rests on: " not in text
    blind = Page(page([line("forget_accuracy", telling=False), line("features", telling=False)], SAME)).text
    assert "Not surely. By its outputs on these rows the original itself cannot be told" in blind
    alone = [dataclasses.replace(one, retrained=[]) for one in LINES]
    assert "Not known: there is no retrained model" in Page(page(alone)).text


def test_pictures_put_figures_in_units_of_the_margin():
    found = strip(line("features", difference=0.05))
    middle, margin = WIDTH / 2, (WIDTH - 8) / 6
    assert found.low == pytest.approx(middle - margin, abs=0.1)
    assert found.high == pytest.approx(middle + margin, abs=0.1)
    assert found.ours == pytest.approx(middle + 0.5 * margin, abs=0.1)
    assert (found.start, found.end) == pytest.approx((middle + 0.4 * margin, middle + 0.7 * margin), abs=0.1)
    assert found.retrained == pytest.approx([middle - 0.2 * margin, middle + 0.2 * margin], abs=0.1)
    assert found.original == WIDTH - 4  # four margins away, so at the edge
    assert strip(Evidence("features", "", "inside", 0.9, 0.5)) is None


def test_every_line_is_a_row_and_every_model_a_curve():
    found = Page(page([*LINES, Evidence("adapter", "switch off", "switch", 1.0, 0.2)]))
    tags = [tag for tag, _ in found.tags]
    assert tags.count("rect") == len(LINES) + len(strips(LINES))  # margins, and the spans of retrained models
    assert tags.count("tr") == 1 + len(strips(LINES)) + 1 + len(QUESTIONS) + 1 + 1 + len(LINES) + 1 + 3
    assert tags.count("dt") == tags.count("dd") == 5
    colors = [given["stroke"] for tag, given in found.tags if tag == "polyline"]
    assert colors[1:] == [*COLORS.values()]  # the first is the axis
    assert "unlearned: 90% after 10 steps" in found.text
    assert f'height="{HEIGHT}"' in page()
    assert "Teaching the forgotten classes again" not in Page(page(curves={})).text


def test_a_notebook_shows_verdict_and_answers():
    text = Audit(HIDDEN, ["features"], list(LINES), run={"retrained": 2})._repr_html_()
    assert HIDDEN in text
    assert "What remains?" in text
    assert "Every line of evidence" not in text


def test_it_loads_nothing_and_names_are_inert():
    hostile = '<script>alert(1)</script><img src="http://x.example/y">'
    text = page(limits=[hostile], run={"kind": hostile}, lines=[dataclasses.replace(LINES[0], words=hostile)])
    found = Page(text)
    assert hostile in found.text
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "a", "img", "base", "form"}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    for words in ("prefers-color-scheme: dark", "@media print", 'name="viewport"'):
        assert words in text

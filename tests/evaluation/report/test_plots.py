"""Figures: which a report has, what they show, and how they are written."""

import base64
import sys

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.plots import FIGURES, _per_class, _relearning, drawings, save_figures, svg_figures


def report(**changes):
    return UnlearningReport(
        models={"original": {"relearning_steps": 0}, "unlearned": {"relearning_steps": 3}}, **changes
    )


def test_a_report_has_the_figures_that_it_has_data_for(finished_run):
    assert drawings(report()) == {}
    assert set(drawings(report(relearning={"original": [0.9]}))) == {"relearning"}
    assert set(drawings(report(outcome={"path": [{"step": 0, "forget": 1.0}]}))) == set()  # one point is no path
    assert list(drawings(finished_run.report)) == list(FIGURES)


def test_captions_say_what_is_shown():
    path = [{"step": 0, "forget": 1.0}, {"step": 2, "forget": 0.1}]
    lone = drawings(report(outcome={"path": path}))["path"]
    both = drawings(report(outcome={"path": [{**check, "retain": 0.9} for check in path]}))["path"]
    assert "forget against retain set" in both.caption
    assert "forget against retain set" not in lone.caption
    assert drawings(report(relearning={"original": [0.9]}))["relearning"].alt.endswith("original 0; unlearned 3")


def test_every_figure_becomes_png_and_svg(finished_run, tmp_path):
    paths = save_figures(finished_run.report, tmp_path / "new", dpi=40)
    assert [path.stem for path in paths] == list(FIGURES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    pictures = svg_figures(finished_run.report)
    assert [drawing.wide for drawing, _ in pictures] == [False, True, True, True, False]
    for _, data in pictures:
        text = base64.b64decode(data).decode()
        assert "<svg" in text
        assert "<script" not in text


def test_lines_and_bars_have_the_values_of_the_report():
    from matplotlib.figure import Figure

    figure = Figure()
    _relearning(report(relearning={"original": [0.25, 1.0], "unlearned": [0.0, 0.5]}), figure)
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines}
    assert lines == {"original": [25.0, 100.0], "unlearned": [0.0, 50.0]}
    figure = Figure()
    _per_class(report(per_class={"original": [0.5, None]}, run={"forgotten_classes": [1]}), figure)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[0] == 50
    assert heights[1] != heights[1]  # NaN: the class has no rows
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1\n(forgotten)"]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install hf_unlearn\[plots\]"):
        save_figures(report(relearning={"original": [0.9]}), tmp_path)

"""Figures: which a report has, what they show, and how they are written."""

import base64
import sys

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.plots import (
    FIGURES,
    _path,
    _per_class,
    _relearning,
    drawings,
    save_figures,
    svg_figures,
)


def report(**changes):
    return UnlearningReport(
        models={"original": {"relearning_steps": 0}, "unlearned": {"relearning_steps": 3}}, **changes
    )


def test_a_report_has_the_figures_that_it_has_data_for(finished_run):
    assert drawings(UnlearningReport(models={})) == {}
    assert set(drawings(report())) == {"answers"}
    assert set(drawings(report(relearning={"original": [0.9]}))) == {"answers", "relearning"}
    assert set(drawings(report(outcome={"path": [{"step": 0, "forget": 1.0}]}))) == {"answers"}  # one point is no path
    assert list(drawings(finished_run.report)) == list(FIGURES)


def test_captions_say_what_is_shown():
    path = [{"step": 0, "forget": 1.0}, {"step": 2, "forget": 0.1}]
    lone = drawings(report(outcome={"path": path}))["path"]
    both = drawings(report(outcome={"path": [{**check, "retain": 0.9} for check in path]}))["path"]
    assert "forget against retain set" in both.caption
    assert "forget against retain set" not in lone.caption
    assert drawings(report(relearning={"original": [0.9]}))["relearning"].alt.endswith("original 0; unlearned 3")


@pytest.mark.slow
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


def drawn(draw, shown):
    from matplotlib.figure import Figure

    figure = Figure()
    draw(shown, figure)
    figure.draw_without_rendering()  # a name that is read as a formula would fail here
    return figure


def ticks(run, classes=3):
    (axes,) = drawn(_per_class, report(per_class={"original": [0.5] * classes}, run=run)).axes
    return [text.get_text() for text in axes.get_xticklabels()]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["bird", "cat", "dog"], ["bird", "cat\n(forgotten)", "dog"]),
        ([], ["0", "1\n(forgotten)", "2"]),
        (["$\\frac", "$x^2$", "a b"], ["$\\frac", "$x^2$\n(forgotten)", "a b"]),
        (["\u9ce5", "cat", "dog"], ["0", "cat\n(forgotten)", "dog"]),  # a sign that the font of the figures lacks
        (
            ["x" * 30, "x" * 31, "y" * 30],
            ["x" * 19 + "… 0", "x" * 19 + "… 1\n(forgotten)", "y" * 23 + "…"],
        ),
    ],
)
def test_classes_have_their_names(names, labels):
    assert ticks({"classes": names, "forgotten_classes": [1]}) == labels
    (axes,) = drawn(
        _relearning, report(relearning={"unlearned": [0.0]}, run={"classes": names, "forgotten_classes": [1]})
    ).axes
    assert axes.get_title() == "Taught again: " + (labels[1].split("\n")[0] if names else "class 1")


def test_of_many_classes_the_forgotten_ones_are_marked():
    run = {"classes": [f"c{i}" for i in range(40)], "forgotten_classes": [7, 8]}
    assert "c7" not in " ".join(ticks(run, 40))
    figure = drawn(_per_class, report(per_class={"original": [0.5] * 40}, run=run))
    assert [text.get_text() for text in figure.legends[0].texts] == ["forgotten", "original"]


def test_a_class_without_test_rows_is_told_from_one_that_is_never_right():
    figure = drawn(_per_class, report(per_class={"original": [0.0, None]}))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no test rows"]


def test_the_original_is_no_single_point_in_the_figure_of_relearning():
    shown = report(
        relearning={"original": [0.9], "unlearned": [0.0, 0.9]}, run={"relearning": {"rows": 20, "wanted": 0.81}}
    )
    (axes,) = drawn(_relearning, shown).axes
    assert [line.get_label() for line in axes.lines] == ["unlearned"]
    assert [part.get_segments()[0][:, 1].tolist() for part in axes.collections] == [[81.0, 81.0]]
    assert "taught again from 20 rows" in drawings(shown)["relearning"].caption


@pytest.mark.parametrize(
    ("stopped", "forget", "words"),
    [
        ("target reached", [1.0, 0.5, 0.1], ["start", "end"]),
        ("kept data suffers: 9.0 points lost", [1.0, 0.5, 0.1], ["start", "end", "taken back"]),
        ("enough: one more step would overshoot", [1.0, 0.1], ["start and end", "taken back"]),
        ("all steps done", [1.0, 1.0], ["start and end"]),
    ],
)
def test_the_path_ends_at_the_state_that_was_kept(stopped, forget, words):
    path = [{"step": i, "forget": f, "retain": 1.0} for i, f in enumerate(forget)]
    shown = report(outcome={"path": path, "stopped": stopped})
    assert [text.get_text() for text in drawn(_path, shown).axes[1].texts] == words
    assert ("The last step was taken back" in drawings(shown)["path"].caption) == ("taken back" in words)


def test_the_path_of_a_run_that_halved_its_steps_ends_at_the_last_good_state():
    path = [{"step": i, "forget": 1 - i / 10, "retain": 1.0 - (i > 1) / 2} for i in range(5)]
    for check in path[2:4]:
        check["step_scale"] = 0.5 ** (check["step"] - 1)
    shown = report(outcome={"path": path, "stopped": "kept data suffers: 50.0 points lost, steps halved 2 times"})
    over_steps, against = drawn(_path, shown).axes
    assert [(text.get_text(), text.xy[0]) for text in against.texts] == [
        ("start", 100.0), ("end", 90.0), ("taken back", 60.0),
    ]  # fmt: skip
    assert [patch.get_x() for patch in over_steps.patches] == [1]
    assert "Steps were halved, from the last good state on, at step 2, 3." in drawings(shown)["path"].caption


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install hf_unlearn\[plots\]"):
        save_figures(report(relearning={"original": [0.9]}), tmp_path)

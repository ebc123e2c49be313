"""Several retrained models in one report: each figure is the mean of theirs, and how far they are from each other stands beside it."""

import gc
import html
import json
import weakref
from itertools import combinations
from statistics import fmean

import pytest
import torch

from hf_unlearn import UnlearningReport
from hf_unlearn.evaluation.report.interpretation import ONE_DRAW, limits, notes, reading
from hf_unlearn.evaluation.report.plots import _per_class, _relearning, _roc
from hf_unlearn.evaluation.report.report_data import retrained_names
from hf_unlearn.evaluation.report.retrained_models import join
from hf_unlearn.evaluation.report.table import rows
from hf_unlearn.metrics.functional.distance import agreement, jensen_shannon
from hf_unlearn.models.prediction import predict
from tests.support.models import trained

pytestmark = pytest.mark.xdist_group("several retrained models")

NAMES = retrained_names(3)


def shifted(bias):
    model = trained("vit")
    with torch.no_grad():
        [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1].bias[1] -= bias
    return model


@pytest.fixture(scope="module")
def reports(hostile_run):
    """The report on three models, and those on each of them alone."""

    def measured(retrained, **keys):
        return UnlearningReport.measure(hostile_run.trainer, hostile_run.retain, hostile_run.test, retrained, **keys)

    models = [shifted(bias) for bias in (1.0, 2.0, 30.0)]
    joint = measured((model for model in models), retrained_seconds=9.0, relearning=True)
    return models, joint, [measured(model, relearning=True) for model in models], measured([models[0]], relearning=True)


@pytest.mark.slow
def test_one_model_in_a_list_is_one_model(reports):
    *_, (alone, *_), listed = reports
    assert json.dumps(listed.as_dict()) == json.dumps(alone.as_dict())
    assert "retrained" not in alone.as_dict()
    assert ONE_DRAW in limits(alone)


def test_every_figure_is_the_mean_over_the_models_and_each_model_is_kept(reports):
    _, joint, single, _ = reports
    assert list(joint.models) == ["original", "unlearned", "retrained"]
    assert list(joint.retrained) == NAMES
    for measure, value in joint.models["retrained"].items():
        if measure not in ("js_to_retrained", "agreement_with_retrained"):
            each = [one.models["retrained"][measure] for one in single]
            assert [joint.retrained[name][measure] for name in NAMES] == pytest.approx(each)
            assert value == pytest.approx(fmean(each)), measure
            assert joint.spread("retrained", measure) == pytest.approx([min(each), max(each)])
            if measure != "relearning_steps":
                pairs = [one.intervals["retrained"][measure] for one in single]
                span = [min(low for low, _ in pairs), max(high for _, high in pairs)]
                assert joint.intervals["retrained"][measure] == pytest.approx(span)
    per_class = zip(*(one.per_class["retrained"] for one in single), strict=True)
    assert joint.per_class["retrained"] == pytest.approx(list(map(fmean, per_class)))
    known = [one.information["retrained"]["value"] for one in single]
    assert joint.information["retrained"]["value"] == pytest.approx(fmean(known))
    assert joint.spread("unlearned", "test_accuracy") is None
    assert joint.seconds["ratio"] == pytest.approx(joint.seconds["unlearning"] / 9)


@pytest.mark.slow
def test_distances_are_means_over_the_models_and_stand_beside_the_distance_between_these(reports, hostile_run):
    models, joint, single, _ = reports
    for name in ("original", "unlearned"):
        for measure in ("js_to_retrained", "agreement_with_retrained"):
            each = [one.models[name][measure] for one in single]
            assert joint.models[name][measure] == pytest.approx(fmean(each))
            low, high = joint.intervals[name][measure]
            assert low <= joint.models[name][measure] <= high
        assert joint.gap[name] == pytest.approx(fmean(one.gap[name] for one in single))
    logits = [predict(m, hostile_run.trainer.forget_dataset, hostile_run.trainer.processor)[0] for m in models]
    for measure, distance in (("js_to_retrained", jensen_shannon), ("agreement_with_retrained", agreement)):
        expected = fmean(distance(a, b) for a, b in combinations(logits, 2))
        assert joint.models["retrained"][measure] == pytest.approx(expected)
        others = fmean(distance(logits[0], other) for other in logits[1:])
        assert joint.retrained["retrained"][measure] == pytest.approx(others)
    gaps = [
        100 * fmean(abs(a[m] - b[m]) for m in ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack"))
        for a, b in combinations((one.models["retrained"] for one in single), 2)
    ]  # fmt: skip
    assert joint.gap["retrained"] == pytest.approx(fmean(gaps))


@pytest.mark.slow
def test_a_model_is_gone_before_the_next_one_is_loaded(hostile_run):
    made = []

    def loaded():
        for bias in (1.0, 2.0, 3.0):
            gc.collect()
            assert not any(model() for model in made)
            made.append(weakref.ref(model := shifted(bias)))
            yield model
            del model

    UnlearningReport.measure(hostile_run.trainer, None, None, loaded())
    assert len(made) == 3


def test_table_figures_and_words_say_what_the_column_holds(reports, capsys):
    _, joint, single, _ = reports
    again = UnlearningReport.from_dict(json.loads(json.dumps(joint.as_dict(), allow_nan=False)))
    assert again == joint
    table = {row.title: row.cells for row in rows(joint)}
    low, high = (100 * f([one.models["retrained"]["forget_accuracy"] for one in single]) for f in (min, max))
    mean = 100 * joint.models["retrained"]["forget_accuracy"]
    assert table["accuracy on the forget set (%)"][2] == f"{mean:.1f} ({low:.1f} to {high:.1f})"
    assert all(
        " (" in cells[2] for title, cells in table.items() if title.startswith(("Jensen", "same", "gap", "info"))
    )
    assert all(cells[1].count("[") == cells[1].count("]") for cells in table.values())
    joint.print()
    for page in (capsys.readouterr().out, joint.to_markdown(), html.unescape(joint.to_html(figures=False))):
        assert "retrained (3 models)" in page
        assert "of the retraining time, the mean of 3 trainings." in " ".join(page.split())
    assert f'{mean:.1f} <span class="interval">({low:.1f} to {high:.1f})</span>' in joint.to_html(figures=False)
    assert ONE_DRAW not in joint.to_markdown()
    assert any("a model that was retrained once more would be about as far" in note for note in notes(joint))
    assert any("nats from the 3 retrained models on average, and these" in sentence for sentence in reading(joint))
    assert "the retrained model" not in joint.to_markdown().replace("the retrained models", "")


def test_lines_are_drawn_for_each_model_and_bars_for_their_mean(reports):
    from matplotlib.figure import Figure

    _, joint, *_ = reports
    # Curves of relearning are their mean and a band from the lowest to the highest.
    for draw, prefix, lines in ((_roc, "retrained (3 models), AUC", 3), (_relearning, "retrained (3 models)", 1)):
        figure = Figure()
        draw(joint, figure)
        (axes,) = figure.axes
        orange = [line for line in axes.lines if line.get_color() == "#E69F00"]
        assert len(orange) == lines
        assert len(axes.collections) >= (draw is _relearning)
        assert sum(line.get_label().startswith(prefix) for line in orange) == 1
        assert sum(text.get_text().startswith("retrained") for text in figure.legends[0].texts) == 1
    figure = Figure()
    _per_class(joint, figure)
    assert [text.get_text() for text in figure.legends[0].texts][-1] == "retrained (3 models)"


def hand_made(*figures, steps=()):
    """A report on several retrained models whose intervals have a half width of 0.01."""
    models = {"original": {"forget_accuracy": 1.0}, "unlearned": {"forget_accuracy": 0.5}}
    models |= dict(zip(retrained_names(len(figures)), ({"forget_accuracy": f} for f in figures), strict=True))
    limits = {name: {m: [v - 0.01, v + 0.01] for m, v in each.items()} for name, each in models.items()}
    report = UnlearningReport(models=models, intervals=limits)
    for name, count in zip(retrained_names(len(steps)), steps, strict=True):
        report.models[name]["relearning_steps"] = count
        report.relearning[name] = [0.0] * min(200, count + 1)
    join(report, retrained_names(len(figures)))
    return report


@pytest.mark.parametrize(
    ("figures", "warned", "verdict"),
    [
        ((0.2, 0.3), ["under-forgetting"], "25.0 % on average: clearly higher: it still remembers."),
        ((0.2, 0.505), [], "35.2 % on average: not told apart by these rows."),
        ((0.56, 0.8), ["over-forgetting"], "68.0 % on average: clearly lower: it over-forgets."),
        ((0.54, 0.8), [], "67.0 % on average: clearly lower: it over-forgets."),
    ],
)
def test_a_difference_is_clear_if_it_goes_beyond_all_models(figures, warned, verdict):
    report = hand_made(*figures)
    assert [warning.split(":")[0] for warning in report.warnings] == warned
    assert reading(report) == [
        f"Accuracy on the forget set is 50.0 %, the 2 retrained models' {verdict}",
    ]


@pytest.mark.parametrize(
    ("steps", "text"),
    [((2, 4), "3 (2 to 4)"), ((200, 200), "more than 199"), ((100, 200), "more than 149")],
)
def test_steps_of_relearning_are_a_mean_unless_a_model_took_more_than_were_tried(steps, text):
    (row,) = (row for row in rows(hand_made(0.2, 0.3, steps=steps)) if row.measure == "relearning_steps")
    assert row.cells[2] == text


def test_models_that_do_not_fit_their_rows_are_no_yardstick():
    report = hand_made(0.2, 0.3)
    for name, accuracy in (("original", 1.0), ("unlearned", 1.0), ("retrained", 0.5)):
        report.models[name]["retain_accuracy"] = accuracy
        report.intervals[name]["retain_accuracy"] = [accuracy - 0.01, accuracy + 0.01]
    assert report.heading("retrained") == "retrained (2 models, void)"
    assert report.warnings[0].startswith(
        "the comparison is void: the 2 retrained models are, on average, right on 50.0%"
    )
    assert "no figure of them says" in report.warnings[0]
    assert limits(report)[-1] != ONE_DRAW
    assert [note for note in notes(report) if "2 retrained models" in note] == [notes(report)[0]]
    assert "round brackets hold the lowest and the highest" in notes(report)[0]

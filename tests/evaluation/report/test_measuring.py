"""Measuring a finished run."""

import json

import datasets
import numpy as np
import pytest

from hf_unlearn import FineTune, JiT, UnlearningTrainer, WassersteinBarycenter
from hf_unlearn.evaluation.relearning import RELEARNED, RELEARNING_ROWS, relearn
from hf_unlearn.models.prediction import predict
from tests.support.data import class_split, data_for
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments, trainer_for


def test_gap_is_the_mean_distance_to_the_retrained_model_in_points(finished_run):
    measures = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")
    yardstick = finished_run.report.models["retrained"]
    for model in ("original", "unlearned"):
        expected = 100 * np.mean([abs(finished_run.report.models[model][m] - yardstick[m]) for m in measures])
        assert finished_run.report.gap[model] == pytest.approx(expected)
    assert "retrained" not in finished_run.report.gap


def test_relearning_and_time_are_reported(finished_run):
    assert finished_run.report.models["original"]["relearning_steps"] == 0
    assert finished_run.report.models["retrained"]["relearning_steps"] > 0
    assert finished_run.report.seconds["unlearning"] == finished_run.trainer.seconds > 0
    assert finished_run.report.seconds["ratio"] == pytest.approx(finished_run.trainer.seconds / 40)


def test_without_test_set_or_retrained_model_their_rows_are_left_out(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), retain=False)
    trainer.train()
    report = trainer.report()
    assert set(report.models) == {"original", "unlearned"}
    assert set(report.models["unlearned"]) == {"forget_accuracy", "forget_f1"} == set(report.intervals["unlearned"])
    assert not report.gap
    assert not report.per_class
    assert "| | original | unlearned |" in report.to_markdown().splitlines()


def test_retrained_model_may_be_of_another_kind(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2))
    trainer.train()
    report = trainer.report(test_dataset=data_for("vit", 12), retrained=build("resnet"))
    assert set(report.models) == {"original", "unlearned", "retrained"}


def test_the_original_keeps_its_batch_statistics(tmp_path):
    split, test = class_split("resnet"), data_for("resnet", 36, seed=7)
    trainer = trainer_for("resnet", tmp_path, FineTune(), split=split, learning_rate=0.05, max_steps=10)
    trainer.train()
    with trainer.original_weights() as model:
        assert not changed(state(trained("resnet")), state(model))
    report = trainer.report(test_dataset=test)
    logits, labels = predict(trained("resnet"), test, trainer.processor)
    right = (logits.argmax(-1) == labels).float().mean().item()
    assert report.models["original"]["test_accuracy"] == pytest.approx(right)


def test_a_test_set_without_the_forgotten_class_has_no_accuracy_on_it(finished_run):
    without = finished_run.sets["test"].filter(lambda row: row["label"] != 1)
    report = finished_run.trainer.report(test_dataset=without)
    assert "test_forgotten_accuracy" not in report.models["unlearned"]
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))


@pytest.mark.parametrize("edit", ["one group", "no column"])
def test_an_attribute_that_the_test_set_does_not_tell_apart_is_left_out(tmp_path, edit):
    data = data_for("vit", 64)
    trainer = UnlearningTrainer(
        model=trained("vit"),
        args=arguments(tmp_path),
        method=WassersteinBarycenter(attribute="group"),
        retain_dataset=data,
    )
    trainer.train()
    test = data.filter(lambda row: row["group"] == 1) if edit == "one group" else data.remove_columns("group")
    report = trainer.report(test_dataset=test)
    assert (report.groups, report.information) == ({}, {})
    assert "test accuracy" in report.to_markdown()


def test_groups_have_the_names_of_their_column(tmp_path):
    data = data_for("vit", 64).cast_column("group", datasets.ClassLabel(names=["left", "right"]))
    method = WassersteinBarycenter(attribute="group")
    trainer = UnlearningTrainer(model=trained("vit"), args=arguments(tmp_path), method=method, retain_dataset=data)
    trainer.train()
    report = trainer.report(test_dataset=data)
    assert set(report.groups["unlearned"]) == {"left", "right"} == set(report.information["unlearned"]["counts"])
    assert "information on 'group' given the label" in report.to_markdown()


def test_each_model_runs_once_over_each_set(hostile_run):
    rows = sum(len(data) for data in (hostile_run.trainer.forget_dataset, hostile_run.retain, hostile_run.test))
    assert hostile_run.calls[id(hostile_run.models["retrained"])] == rows
    # The original is the unlearned model with other weights, or a copy of its own.
    assert hostile_run.calls[id(hostile_run.models["unlearned"])] in (rows, 2 * rows)


def test_every_figure_lies_in_its_interval(hostile_run):
    report = hostile_run.report
    for name, measures in report.models.items():
        assert set(measures) - {"gap"} == set(report.intervals[name]) - {"gap"}
        for measure, value in measures.items():
            low, high = report.intervals[name][measure]
            assert low <= value <= high, (name, measure)
        for value, limits in zip(report.per_class[name], report.per_class_intervals[name], strict=True):
            assert limits[0] <= value <= limits[1]
    assert set(report.intervals["unlearned"]) - set(report.models["unlearned"]) == {"gap"}


@pytest.mark.slow
def test_the_curve_of_relearning_ends_at_the_number_of_steps(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2))
    trainer.train()
    report = trainer.report(test_dataset=data_for("vit", 36, seed=7), relearning=True)
    assert set(report.relearning) == {"unlearned"}  # the original needs no teaching
    assert report.models["original"]["relearning_steps"] == 0
    assert report.run["relearning"]["rows"] == min(RELEARNING_ROWS, len(trainer.forget_dataset))
    known = report.models["original"]["test_forgotten_accuracy"]
    assert report.run["relearning"]["wanted"] == pytest.approx(RELEARNED * known)
    for name, path in report.relearning.items():
        assert len(path) - 1 == report.models[name]["relearning_steps"] or len(path) == 200
    rows = [trainer.processor(row) for row in trainer.forget_dataset]
    path = list(relearn(trainer.model, rows, rows, trainer.processor, stop=0.9))
    assert path[-1][0] == len(path) - 1
    assert [step for step, _ in relearn(trainer.model, rows, rows, trainer.processor, limit=3)] == [0, 1, 2, 3]
    assert report.to_html().count("<img") >= 3


def test_sets_of_a_report_are_refused_by_argument_row_and_column(tmp_path):
    trainer = trainer_for("bert", tmp_path, JiT(num_perturbations=2), max_steps=1)
    trainer.train()
    whole = data_for("bert", 20)
    texts = [None if i == 17 else text for i, text in enumerate(whole["text"])]
    holed = whole.remove_columns("text").add_column("text", texts, feature=datasets.Value("string"))
    for argument in ("retain_dataset", "test_dataset"):
        with pytest.raises(ValueError, match=f"^`{argument}` is a dictionary of splits"):
            trainer.report(**{argument: datasets.DatasetDict(test=whole)})
        with pytest.raises(ValueError, match=f"^`{argument}`, row 0: it is a tuple"):
            trainer.report(**{argument: [("w1 w2", 1)]})
        with pytest.raises(ValueError, match=rf"^`{argument}`, row 17[,:] "):
            trainer.report(**{argument: holed})

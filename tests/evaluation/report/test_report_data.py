"""Reports as JSON, and what they warn of."""

import json

import pytest

from hf_unlearn import UnlearningReport


def test_report_survives_json(finished_run):
    again = UnlearningReport.from_dict(json.loads(json.dumps(finished_run.report.as_dict())))
    assert again == finished_run.report
    assert again.warnings == finished_run.report.warnings
    with pytest.raises(ValueError, match="`schema` is 'other'"):
        UnlearningReport.from_dict({**finished_run.report.as_dict(), "schema": "other"})


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ({"forget_accuracy": 0.1}, {"forget_accuracy": 0.6}, "over-forgetting"),
        ({"forget_accuracy": 0.6, "relearning_steps": 3}, {"forget_accuracy": 0.6, "relearning_steps": 10}, "shallow"),
        ({"forget_accuracy": 0.58, "relearning_steps": 8}, {"forget_accuracy": 0.6, "relearning_steps": 10}, None),
    ],
)
def test_bad_figures_are_warnings(ours, theirs, word):
    report = UnlearningReport(models={"original": {}, "unlearned": ours, "retrained": theirs})
    assert [w for w in report.warnings if word is None or word not in w] == []
    assert len(report.warnings) == (word is not None)
    assert (word is None) == ("**Warning:**" not in report.to_markdown())
    own = UnlearningReport(models={"unlearned": {}}, outcome={"warnings": ["kept data collapsed"]})
    assert own.warnings == ["kept data collapsed"]


def test_the_report_comes_back_from_json_and_another_schema_does_not(hostile_run):
    data = json.loads(json.dumps(hostile_run.report.as_dict(), allow_nan=False))
    assert UnlearningReport.from_dict(data) == hostile_run.report
    assert data["schema"] == "hf_unlearn/report/2"
    with pytest.raises(ValueError, match="'hf_unlearn/report/1', this version reads 'hf_unlearn/report/2'"):
        UnlearningReport.from_dict({**data, "schema": "hf_unlearn/report/1"})


def test_more_right_than_the_retrained_model_is_under_forgetting():
    def warned(ours, theirs):
        limits = {"unlearned": {"forget_accuracy": ours}, "retrained": {"forget_accuracy": theirs}}
        models = {name: {"forget_accuracy": sum(pair["forget_accuracy"]) / 2} for name, pair in limits.items()}
        return [w.split(":")[0] for w in UnlearningReport(models=models, intervals=limits).warnings]

    assert warned([0.97, 1.0], [0.91, 0.96]) == ["under-forgetting"]
    assert warned([0.95, 1.0], [0.91, 0.96]) == []
    assert warned([0.1, 0.2], [0.91, 0.96]) == ["over-forgetting"]


def side(**limits):
    return {"intervals": limits, "models": {name: sum(pair) / 2 for name, pair in limits.items()}}


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ({"loss_attack_auc": [0.3, 0.4]}, {"loss_attack_auc": [0.45, 0.55]}, "the loss attack finds less"),
        ({"loss_attack_auc": [0.4, 0.5]}, {"loss_attack_auc": [0.45, 0.55]}, None),
        ({"membership_attack": [0.0, 0.1]}, {"membership_attack": [0.2, 0.3]}, "the entropy attack finds less"),
        ({"loss_attack_auc": [0.3, 0.4]}, None, "below chance"),
        ({"loss_attack_auc": [0.4, 0.6]}, None, None),
        ({"membership_attack": [0.0, 0.1]}, None, None),
    ],
)
def test_an_attack_that_finds_too_little_is_over_forgetting(ours, theirs, word):
    sides = {"original": side(), "unlearned": side(**ours)} | ({"retrained": side(**theirs)} if theirs else {})
    report = UnlearningReport(
        models={name: part["models"] for name, part in sides.items()},
        intervals={name: part["intervals"] for name, part in sides.items()},
    )
    assert len(report.warnings) == (word is not None)
    assert word is None or word in report.warnings[0]
    if theirs and word:
        assert "it over-forgets" in report.to_markdown()


def fits(original, retrained, half=0.01):
    accuracy = {"original": original, "unlearned": original, "retrained": retrained}
    models = {name: {"retain_accuracy": a, "forget_accuracy": 0.1 * i} for i, (name, a) in enumerate(accuracy.items())}
    limits = {name: {m: [v - half, v + half] for m, v in figures.items()} for name, figures in models.items()}
    return UnlearningReport(models=models, intervals=limits)


@pytest.mark.parametrize(
    ("original", "retrained", "half", "void"),
    [
        (1.0, 0.5, 0.01, True), (1.0, 0.94, 0.01, True), (1.0, 0.96, 0.001, False), (1.0, 0.9, 0.06, False),
        (0.5, 0.5, 0.01, False), (0.8, 0.95, 0.01, False),
    ],
)  # fmt: skip
def test_a_retrained_model_that_does_not_fit_its_rows_makes_the_comparison_void(original, retrained, half, void):
    report = fits(original, retrained, half)
    assert bool(report.void) == void
    assert report.heading("retrained") == ("retrained (void)" if void else "retrained")
    assert [w.split(":")[0] for w in report.warnings] == (["the comparison is void"] if void else ["over-forgetting"])
    assert ("There is no yardstick" in report.to_markdown()) == void


@pytest.mark.parametrize(
    ("attack", "changes", "word"),
    [
        ([0.45, 0.55], {}, "nothing to forget"),
        ([0.52, 0.58], {}, "nothing was forgotten"),  # members are found
        ([0.30, 0.70], {}, "nothing was forgotten"),  # too few rows to tell
        (None, {}, "nothing was forgotten"),
        ([0.45, 0.55], {"outputs_moved": 0.01}, None),
        ([0.45, 0.55], {"target_reached": False}, None),  # which has its own warning
    ],
)
def test_a_run_that_moved_nothing_is_told_from_one_that_had_nothing_to_forget(attack, changes, word):
    figures = {} if attack is None else {"loss_attack_auc": attack}
    report = UnlearningReport(
        models={name: {k: sum(v) / 2 for k, v in figures.items()} for name in ("original", "unlearned")},
        intervals=dict.fromkeys(("original", "unlearned"), figures),
        outcome={"outputs_moved": 2e-4, "target_reached": None} | changes,
        run={"kind": "samples", "method": {"method": "uib"}},
    )
    assert [w.split(":")[0] for w in report.warnings] == ([] if word is None else [word])
    assert not report.nothing_forgotten or "`marginal_information` or `gradient_difference`" in report.nothing_forgotten
    report.run["kind"] = "class"
    assert report.warnings == []


@pytest.mark.parametrize(("ratio", "cheaper"), [(0.5, False), (47.875, True)])
def test_a_run_that_took_longer_than_retraining_says_so(ratio, cheaper):
    report = fits(1.0, 1.0)
    report.seconds = {"unlearning": ratio, "retraining": 1.0, "ratio": ratio}
    for text in (report.to_markdown(), report.to_html(figures=False)):
        assert f"{100 * ratio:.1f} % of the retraining time" in text
        assert ("Retraining is cheaper here" in text) == cheaper


def test_the_time_of_an_earlier_run_is_told_from_one_of_this_run():
    report = fits(1.0, 1.0)
    report.seconds = {"unlearning": 1.0, "retraining": 2.0, "ratio": 0.5}
    assert report.to_markdown().count("An earlier run measured that time") == 0
    report.run["retraining"] = {"base": "none", "void": False, "cached": 1}
    assert "50.0 % of the retraining time. An earlier run measured that time." in report.to_markdown()

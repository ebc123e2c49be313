"""Every figure of a report against a plain recomputation."""

import dataclasses
import json
import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from hf_unlearn import (
    FineTune,
    ForgetRequest,
    GradientAscent,
    JiT,
    UnlearningReport,
    UnlearningTrainer,
    WassersteinBarycenter,
)
from hf_unlearn.evaluation.report.report import write_atomically
from hf_unlearn.metrics.functional.distance import jensen_shannon
from hf_unlearn.metrics.functional.membership import entropy_attack, prediction_entropy
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.training.outcome import Outcome
from tests.support.data import CLASSES, class_split, data_for, processing_class, text_data
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments, trainer_for


@pytest.fixture(scope="module", params=["vit", "bert"])
def run(request, tmp_path_factory):
    """A finished run with a stand-in for the retrained model, and its report."""
    arch = request.param
    split, test = class_split(arch), data_for(arch, 36, seed=7)
    trainer = trainer_for(
        arch, tmp_path_factory.mktemp(arch), GradientAscent(), split=split, max_steps=4, trust_region=0.01
    )
    trainer.train()
    retrained = trained(arch)
    with torch.no_grad():
        [m for m in retrained.modules() if isinstance(m, torch.nn.Linear)][-1].bias[1] -= 30
    before = state(trainer.model)
    report = trainer.report(test_dataset=test, retrained=retrained, retrained_seconds=40.0, relearning=True)
    assert not changed(before, state(trainer.model))
    models = {"original": trained(arch), "unlearned": trainer.model, "retrained": retrained}
    return SimpleNamespace(
        arch=arch,
        trainer=trainer,
        report=report,
        models=models,
        sets={"forget": split.forget, "retain": split.retain, "test": test},
    )


def outputs(run, model, name):
    return predict(run.models[model], run.sets[name], Processor(run.models[model], processing_class(run.arch)))


def test_accuracies_are_shares_of_right_answers(run):
    for model in ("original", "unlearned", "retrained"):
        for name in ("forget", "retain", "test"):
            logits, labels = outputs(run, model, name)
            right = [int(row.argmax()) == int(y) for row, y in zip(logits, labels, strict=True)]
            assert run.report.models[model][f"{name}_accuracy"] == pytest.approx(np.mean(right))
        logits, labels = outputs(run, model, "test")
        for key, rows in (("test_forgotten_accuracy", labels == 1), ("test_kept_accuracy", labels != 1)):
            expected = (logits.argmax(-1) == labels)[rows].float().mean().item()
            assert run.report.models[model][key] == pytest.approx(expected)
        per_class = [(logits.argmax(-1) == labels)[labels == c].float().mean().item() for c in range(CLASSES)]
        assert run.report.per_class[model] == pytest.approx(per_class)
    assert run.report.models["retrained"]["forget_accuracy"] == 0
    assert run.report.models["original"]["forget_accuracy"] > 0.9


def test_macro_f1_is_the_mean_over_present_classes(run):
    logits, labels = outputs(run, "unlearned", "test")
    predicted, scores = logits.argmax(-1), []
    for c in labels.unique():
        hits = ((predicted == c) & (labels == c)).sum().item()
        scores.append(2 * hits / ((predicted == c).sum().item() + (labels == c).sum().item()))
    assert run.report.models["unlearned"]["test_f1"] == pytest.approx(np.mean(scores))


def test_gap_is_the_mean_distance_to_the_retrained_model_in_points(run):
    measures = ("forget_accuracy", "retain_accuracy", "test_accuracy", "membership_attack")
    yardstick = run.report.models["retrained"]
    for model in ("original", "unlearned"):
        expected = 100 * np.mean([abs(run.report.models[model][m] - yardstick[m]) for m in measures])
        assert run.report.gap[model] == pytest.approx(expected)
    assert "retrained" not in run.report.gap


def test_distances_to_the_retrained_model(run):
    theirs, _ = outputs(run, "retrained", "forget")
    for model in ("original", "unlearned"):
        ours, _ = outputs(run, model, "forget")
        p, q = ours.double().softmax(-1).numpy(), theirs.double().softmax(-1).numpy()
        m = (p + q) / 2
        expected = np.mean(
            [0.5 * np.sum(a * np.log(a / c)) + 0.5 * np.sum(b * np.log(b / c)) for a, b, c in zip(p, q, m, strict=True)]
        )
        measures = run.report.models[model]
        assert measures["js_to_retrained"] == pytest.approx(expected, rel=1e-6)
        assert measures["agreement_with_retrained"] == pytest.approx(
            (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
        )


def test_relearning_and_time_are_reported(run):
    assert run.report.models["original"]["relearning_steps"] == 0
    assert run.report.models["retrained"]["relearning_steps"] > 0
    assert run.report.seconds["unlearning"] == run.trainer.seconds > 0
    assert run.report.seconds["ratio"] == pytest.approx(run.trainer.seconds / 40)


def test_histograms_are_shares_of_the_highest_probability(run):
    for model, sets in run.report.confidence.items():
        for name, shares in sets.items():
            top = outputs(run, model, name)[0].softmax(-1).amax(-1)
            expected = [((top >= i / 20) & ((top < (i + 1) / 20) | (i == 19))).float().mean().item() for i in range(20)]
            assert shares == pytest.approx(expected, abs=1e-6)
            assert sum(shares) == pytest.approx(1)


def test_report_survives_json(run):
    again = UnlearningReport.from_dict(json.loads(json.dumps(run.report.as_dict())))
    assert again == run.report
    assert again.warnings == run.report.warnings
    with pytest.raises(ValueError, match="`schema` is 'other'"):
        UnlearningReport.from_dict({**run.report.as_dict(), "schema": "other"})


def test_files_are_written_whole_and_agree(run, tmp_path):
    run.report.save(tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"
    assert json.loads((folder / "report.json").read_text())["models"] == run.report.models
    text = (folder / "report.md").read_text()
    assert text == run.report.to_markdown()
    for line in ("| accuracy on the forget set (%) |", "| | original | unlearned | retrained |", "gradient_ascent"):
        assert line in text
    figures = list((folder / "figures").glob("*.png"))
    assert figures
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in figures)
    assert not list(folder.rglob("*partial*"))


def test_printed_table_holds_every_measure(run, capsys):
    run.report.print()
    out = capsys.readouterr().out
    for word in ("original", "unlearned", "retrained", "accuracy", "seconds"):
        assert word in out


def test_without_test_set_or_retrained_model_their_rows_are_left_out(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), retain=False)
    trainer.train()
    report = trainer.report()
    assert set(report.models) == {"original", "unlearned"}
    assert set(report.models["unlearned"]) == {"forget_accuracy", "forget_f1"} == set(report.intervals["unlearned"])
    assert not report.gap
    assert not report.per_class
    assert "| | original | unlearned |" in report.to_markdown().splitlines()


def test_report_reveals_no_row_of_the_forget_set(tmp_path):
    data = text_data(40).add_column("user", [f"secret-{i}" for i in range(40)])
    split = ForgetRequest(column="user", values=["secret-7", "secret-11"]).split(data)
    trainer = trainer_for("bert", tmp_path / "run", JiT(num_perturbations=2), split=split, forget_kind="samples")
    trainer.train()
    report = trainer.report(test_dataset=text_data(12, seed=3))
    report.save(tmp_path / "report", figures=False)
    written = "".join(f.read_text() for f in (tmp_path / "report").iterdir())
    assert "secret" not in written
    assert not any(text in written for text in split.forget["text"])


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


# --- measures ---------------------------------------------------------------------------------------------------------


def test_jensen_shannon_has_its_known_values():
    apart = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert jensen_shannon(apart, apart.flip(1)) == pytest.approx(math.log(2))
    assert jensen_shannon(apart, apart) == 0
    a, b = torch.randn(9, 5), torch.randn(9, 5)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 < jensen_shannon(a, b) < math.log(2)
    assert math.isfinite(jensen_shannon(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]])))


def test_entropy_has_its_known_values():
    logits = torch.tensor([[0.0] * 8, [200.0] + [0.0] * 7, [0.0, 0.0] + [-200.0] * 6])
    assert prediction_entropy(logits) == pytest.approx([math.log(8), 0, math.log(2)], abs=1e-12)


def test_entropy_attack_calls_confident_samples_members():
    generator = torch.Generator().manual_seed(0)
    sure = torch.randn(60, 6, generator=generator) * 8
    unsure = torch.randn(60, 6, generator=generator) * 0.3
    assert entropy_attack(sure[:40], unsure[:40], sure[40:]) > 0.9
    assert entropy_attack(sure[:40], unsure[:40], unsure[40:]) < 0.1
    mixed = torch.cat([sure[40:50], unsure[40:50]])
    assert entropy_attack(sure[:40], unsure[:40], mixed) == pytest.approx(0.5, abs=0.1)
    assert entropy_attack(sure[:4], unsure[:40], mixed) == pytest.approx(0.5, abs=0.1), "classes are balanced"


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "a.json"
    for text in ("one", "zwei ü"):
        write_atomically(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [file]


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


def test_a_test_set_without_the_forgotten_class_has_no_accuracy_on_it(run):
    without = run.sets["test"].filter(lambda row: row["label"] != 1)
    report = run.trainer.report(test_dataset=without)
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


def test_a_published_mean_of_few_rows_has_one_digit():
    """With all of them, anyone with both models could tell from the mean which rows it is of."""
    moved = Outcome(outputs_moved=0.0123456789)
    assert moved.as_dict()["outputs_moved"] == 0.01
    assert Outcome(outputs_moved=0.0).as_dict()["outputs_moved"] == 0.0
    assert moved.as_dict().keys() == {f.name for f in dataclasses.fields(Outcome)}

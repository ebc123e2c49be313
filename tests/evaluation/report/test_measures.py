"""Every figure of one model against a plain recomputation."""

import numpy as np
import pytest
import torch

from hf_unlearn.metrics.functional.membership import threshold_attack
from hf_unlearn.models.prediction import predict
from tests.support.data import CLASSES

from .support import outputs


def test_accuracies_are_shares_of_right_answers(finished_run):
    for model in ("original", "unlearned", "retrained"):
        for name in ("forget", "retain", "test"):
            logits, labels = outputs(finished_run, model, name)
            right = [int(row.argmax()) == int(y) for row, y in zip(logits, labels, strict=True)]
            assert finished_run.report.models[model][f"{name}_accuracy"] == pytest.approx(np.mean(right))
        logits, labels = outputs(finished_run, model, "test")
        for key, rows in (("test_forgotten_accuracy", labels == 1), ("test_kept_accuracy", labels != 1)):
            expected = (logits.argmax(-1) == labels)[rows].float().mean().item()
            assert finished_run.report.models[model][key] == pytest.approx(expected)
        per_class = [(logits.argmax(-1) == labels)[labels == c].float().mean().item() for c in range(CLASSES)]
        assert finished_run.report.per_class[model] == pytest.approx(per_class)
    assert finished_run.report.models["retrained"]["forget_accuracy"] == 0
    assert finished_run.report.models["original"]["forget_accuracy"] > 0.9


def test_macro_f1_is_the_mean_over_present_classes(finished_run):
    logits, labels = outputs(finished_run, "unlearned", "test")
    predicted, scores = logits.argmax(-1), []
    for c in labels.unique():
        hits = ((predicted == c) & (labels == c)).sum().item()
        scores.append(2 * hits / ((predicted == c).sum().item() + (labels == c).sum().item()))
    assert finished_run.report.models["unlearned"]["test_f1"] == pytest.approx(np.mean(scores))


def test_distances_to_the_retrained_model(finished_run):
    theirs, _ = outputs(finished_run, "retrained", "forget")
    for model in ("original", "unlearned"):
        ours, _ = outputs(finished_run, model, "forget")
        p, q = ours.double().softmax(-1).numpy(), theirs.double().softmax(-1).numpy()
        m = (p + q) / 2
        expected = np.mean(
            [0.5 * np.sum(a * np.log(a / c)) + 0.5 * np.sum(b * np.log(b / c)) for a, b, c in zip(p, q, m, strict=True)]
        )
        measures = finished_run.report.models[model]
        assert measures["js_to_retrained"] == pytest.approx(expected, rel=1e-6)
        assert measures["agreement_with_retrained"] == pytest.approx(
            (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
        )


def test_histograms_are_shares_of_the_highest_probability(finished_run):
    for model, sets in finished_run.report.confidence.items():
        for name, shares in sets.items():
            top = outputs(finished_run, model, name)[0].softmax(-1).amax(-1)
            expected = [((top >= i / 20) & ((top < (i + 1) / 20) | (i == 19))).float().mean().item() for i in range(20)]
            assert shares == pytest.approx(expected, abs=1e-6)
            assert sum(shares) == pytest.approx(1)


def test_the_loss_attack_compares_rows_of_the_same_labels(hostile_run):
    sets = {"forget": hostile_run.trainer.forget_dataset, "retain": hostile_run.retain, "test": hostile_run.test}
    out = {k: predict(hostile_run.trainer.model, rows, hostile_run.trainer.processor) for k, rows in sets.items()}
    alike = torch.isin(out["test"][1], out["forget"][1])
    theirs = threshold_attack(out["retain"], (out["test"][0][alike], out["test"][1][alike]), out["forget"])
    ours = hostile_run.report.models["unlearned"]
    assert ours["loss_attack_auc"] == pytest.approx(theirs["auc"])
    assert ours["loss_attack_tpr_0.01"] == pytest.approx(theirs["tpr_at_1_percent_fpr"])
    assert ours["loss_attack_tpr_0.001"] == pytest.approx(theirs["tpr_at_0.1_percent_fpr"])
    assert hostile_run.report.roc["unlearned"]["others"] == int(alike.sum())

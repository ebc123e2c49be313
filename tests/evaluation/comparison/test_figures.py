"""Figures of a model by their definitions, on outputs that are made up."""

import pytest
import torch

from hf_unlearn.evaluation.audit.model_outputs import Measured, Outputs
from hf_unlearn.evaluation.comparison.figures import answers_alike, divergences, figures
from hf_unlearn.metrics.functional.distance import jensen_shannon
from hf_unlearn.metrics.functional.membership import mia_efficacy, threshold_attack


def measured(seed, rows=40, classes=3):
    draw = torch.Generator().manual_seed(seed)
    outputs = {}
    for name in ("forget", "retain", "test"):
        logits = 2 * torch.randn(rows, classes, generator=draw)
        outputs[name] = Outputs(logits, logits, torch.randint(classes, (rows,), generator=draw))
    return Measured(f"model {seed}", outputs, {}, [], 0.0)


def test_accuracies_and_attacks_are_those_of_the_sets():
    model = measured(0)
    gone = torch.arange(40) < 10
    found, rows = figures(model, gone), model.outputs
    assert found["forget"] == pytest.approx(rows["forget"].right.double().mean().item())
    assert found["test"] == pytest.approx(rows["test"].right[10:].double().mean().item())
    assert found["forgotten"] == pytest.approx(rows["test"].right[:10].double().mean().item())
    pairs = [(rows[n].logits, rows[n].labels) for n in ("retain", "test", "forget")]
    pairs[1] = tuple(part[10:] for part in pairs[1])  # unseen rows of classes that are kept
    assert found["membership"] == pytest.approx(mia_efficacy(*pairs))
    assert found["auc"] == pytest.approx(threshold_attack(*pairs)["auc"])
    assert all(0 <= value <= 1 for value in found.values())


def test_the_attack_on_single_rows_takes_retrained_models_for_its_shadows():
    model, *shadows = (measured(seed) for seed in range(4))
    gone = torch.zeros(40, dtype=torch.bool)
    assert "lira" not in figures(model, gone, shadows[:1])  # one shadow has no variance

    def scores(
        name,
    ):  # offline LiRA with one variance for all rows: the distance from the shadows' median, in deviations
        known = torch.stack([shadow.outputs[name].margin for shadow in shadows]).double()
        middle = known.median(0).values
        return ((model.outputs[name].margin - middle) / (known - middle).square().sum().sqrt()).numpy()

    forget, unseen = scores("forget"), scores("test")
    assert figures(model, gone, shadows)["lira"] == pytest.approx((forget[:, None] > unseen).mean(), abs=1e-3)


def test_single_rows_have_no_forgotten_class():
    assert "forgotten" not in figures(measured(0), torch.zeros(40, dtype=torch.bool))


def test_divergences_are_from_each_retrained_model_and_among_them():
    original, unlearned, *retrained = (measured(seed) for seed in range(5))
    found = divergences(original, unlearned, retrained)
    assert [len(found[k]) for k in ("original", "unlearned", "among")] == [3, 3, 3]
    logits = [m.outputs["forget"].logits for m in (unlearned, *retrained)]
    assert found["unlearned"][1] == pytest.approx(jensen_shannon(logits[0], logits[2]))
    assert found["among"][0] == pytest.approx(jensen_shannon(logits[1], logits[2]))


def test_which_models_answer_alike():
    assert answers_alike(measured(0), measured(0))
    assert not answers_alike(measured(0), measured(1))

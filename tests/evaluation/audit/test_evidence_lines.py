"""Figures of models whose outputs are written down by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.audit.evidence_lines import Figures, divergence
from hf_unlearn.evaluation.audit.model_outputs import Measured, Outputs
from hf_unlearn.evaluation.audit.probing import feature_likeness
from hf_unlearn.evaluation.audit.verdicts import SPECS


def measured(name, seed, remembers=0.0, rows=40, classes=3, **changes):
    """Random outputs; `remembers` is added to the logit of the label on the forget set."""
    generator = torch.Generator().manual_seed(seed)
    outputs = {}
    for key in ("forget", "test", "retain"):
        labels = torch.arange(rows) % classes
        logits = torch.randn(rows, classes, generator=generator)
        logits[torch.arange(rows), labels] += remembers if key == "forget" else 0.0
        features = torch.randn(rows, 4, generator=generator)
        outputs[key] = Outputs(logits, features, labels, (features, -features, 2 * features, features.flip(0)))
    right = outputs["forget"].right
    return Measured(name, outputs, {"int8": right, "bf16": right}, [[(0, 0.0), (7, 1.0)]], 0.25, **changes)


def figures(classes=(), retrained=2, same_shares=True):
    others = [measured(f"retrained[{i}]", 10 + i) for i in range(retrained)]
    original = measured("original", 0, remembers=4.0)
    return Figures(classes, torch.isin(torch.arange(40) % 3, torch.tensor(classes)), same_shares, original, others)


def test_every_line_has_a_figure_for_classes_or_for_single_rows():
    both = [{k for k in SPECS if f.of(k, measured("unlearned", 1))} for f in (figures((1,)), figures())]
    only_classes = {
        "test_forgotten_accuracy", "class_membership", "estrangement", "class_probe", "prototype", "inner_prototype",
        "single_row", "inner_single_row",
    }  # fmt: skip
    assert both[0] - both[1] == only_classes
    assert both[1] - both[0] == {"membership", "membership_probe"}
    assert both[0] | both[1] | {"adapter"} == set(SPECS)  # a model without an adapter cannot switch it off


def test_divergence_is_scipys_as_a_share_of_its_maximum():
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    p, q = a.double().softmax(-1).numpy(), b.double().softmax(-1).numpy()
    assert divergence(a, b) == pytest.approx(jensenshannon(p, q, axis=1) ** 2 / math.log(2))
    apart = torch.tensor([[100.0, -100.0]])
    assert divergence(apart, apart.flip(1)) == pytest.approx([1.0])


def test_without_a_retrained_model_the_attack_takes_the_log_odds_as_they_are():
    model = measured("unlearned", 1, remembers=1.0)
    scores = []
    for key in ("forget", "test"):
        p = model.outputs[key].logits.double().softmax(-1)[torch.arange(40), model.outputs[key].labels]
        scores.append((p / (1 - p)).log().numpy())
    expected = roc_auc_score(np.repeat([1, 0], 40), np.concatenate(scores))
    assert figures(retrained=0).of("membership", model).value == pytest.approx(expected)
    assert figures().of("membership", measured("unlearned", 1, remembers=9.0)).value > 0.95


def test_the_scale_of_the_logits_and_the_difficulty_of_rows_do_not_move_the_attack():
    """A line through the retrained models' log-odds takes both out: a model that is their copy is found by nothing."""
    own = figures()
    copy = measured("unlearned", 10)
    hotter = measured("unlearned", 10)
    for key, outputs in hotter.outputs.items():  # log-odds of two classes scale as the logits do
        hotter.outputs[key] = Outputs(2 * outputs.logits[:, :2], outputs.features, outputs.labels % 2)
        copy.outputs[key] = Outputs(outputs.logits[:, :2], outputs.features, outputs.labels % 2)
        for other in own.retrained:
            logits = other.outputs[key].logits[:, :2]
            other.outputs[key] = Outputs(logits, outputs.features, outputs.labels % 2)
    assert own.of("membership", hotter).value == pytest.approx(own.of("membership", copy).value)


def test_what_retraining_gives_is_known_without_a_retrained_model_where_nobody_was_taught():
    lone = figures((1,), retrained=0)
    known = {key: lone.expected(key, []) for key in SPECS if key not in ("divergence", "estrangement")}
    assert {k for k, e in known.items() if e is not None and e.value == 0} == {
        "forget_accuracy", "test_forgotten_accuracy", "identical", "int8", "bf16", "adapter", "unchanged",
    }  # fmt: skip
    assert known["test_accuracy"].value == lone.of("test_accuracy", lone.original).value
    assert known["relearning"] is None is known["features"]
    single = figures(retrained=0)
    assert (single.expected("membership", []).value, single.expected("forget_accuracy", [])) == (0.5, None)
    assert figures(retrained=0, same_shares=False).expected("membership", []) is None


def test_the_mean_of_retrained_models_is_expected():
    own = figures((1,))
    known = [own.of("test_accuracy", m) for m in own.retrained]
    assert own.expected("test_accuracy", known).value == pytest.approx(np.mean([k.value for k in known]))


def test_the_inner_figure_is_the_mean_over_inner_blocks_and_a_model_without_blocks_has_only_the_last():
    own = figures((1,))
    model = measured("unlearned", 1)
    at = [own._prototype_at(model, 10, block).value for block in range(4)]
    assert own.of("inner_prototype", model).value == pytest.approx(np.mean(at[:3]))
    assert own.of("prototype", model).value == at[3]
    assert at[0] == pytest.approx(at[1]) == pytest.approx(at[2])  # its metric knows neither sign nor scale
    bare = measured("bare", 1)
    bare.outputs = {k: Outputs(o.logits, o.features, o.labels) for k, o in bare.outputs.items()}
    assert own.of("inner_prototype", bare) is None
    assert own.of("prototype", bare).value == pytest.approx(at[0])


def test_without_a_retain_set_half_of_the_kept_test_rows_show_the_kept_classes():
    own, model = figures((1,)), measured("unlearned", 1)
    model.outputs.pop("retain")
    assert len(own.of("prototype", model).rows[1]) == (~own.in_forgotten_class).sum() // 2


def test_an_adapter_is_compared_with_the_original_when_it_is_switched_off():
    own = figures()
    off = measured("unlearned", 1, without_adapters=own.original.outputs["forget"])
    assert own.of("adapter", off).value == 1
    assert own.of("identical", off).value < 0.2
    assert own.of("adapter", measured("unlearned", 1)) is None
    assert own.of("adapter", own.original).value == 1


def test_figures_behind_the_outputs_have_their_closed_forms():
    own, model = figures((1,)), measured("unlearned", 1)
    assert own.of("relearning", model).value == pytest.approx(math.log(8))
    likeness = feature_likeness(model.outputs["forget"].features, own.original.outputs["forget"].features)
    assert own.of("features", model).value == likeness.value
    assert own.of("unchanged", model).value == 0.25
    assert own.of("class_probe", model) is own.of("class_probe", model)  # fitted once


def test_relearning_is_also_measured_on_an_original_that_hides_the_class():
    given = figures((1,))
    given.original.hidden_curves = [[(0, 0.0), (20, 1.0)], [(0, 0.0), (30, 1.0)]]
    assert given.if_hidden("relearning").value == pytest.approx((math.log(21) + math.log(31)) / 2)
    assert given.of("relearning", given.original).value == pytest.approx(math.log(8))
    assert given.if_hidden("features") is None

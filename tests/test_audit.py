"""The audit's parts: statistics checked by hand, inputs that are refused, and the command line."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from hf_unlearn import Audit, audit_models
from hf_unlearn.cli import main
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.evaluation.audit.checks import same_shares
from hf_unlearn.evaluation.audit.evidence import (
    COVERAGE,
    PRIOR_SEEDS,
    Estimate,
    Evidence,
    compare,
    estimate_mean,
    estimate_share,
    seed_spread,
    separation,
    settle,
)
from hf_unlearn.evaluation.audit.model_outputs import adapters_off, quantised, run_model, unchanged_share
from hf_unlearn.evaluation.audit.probing import class_probe, feature_similarity, membership_probe
from hf_unlearn.evaluation.audit.verdicts import DAMAGED, HIDDEN, LESS, MORE, SAME, UNCLEAR, decide
from hf_unlearn.evaluation.relearning import relearn
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.pretrained import load_classifier
from hf_unlearn.models.processor import Processor
from tests.support.data import class_split, data_for, image_data, image_processor, pixel_data, processing_class
from tests.support.models import trained

# --- statistics -------------------------------------------------------------------------------------------------------


def test_auc_is_scikit_learns_and_its_error_that_of_delong():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 60).round(1), rng.normal(0, 1, 90).round(1)
    auc = separation(a, b)
    expected = roc_auc_score(np.r_[np.ones(60), np.zeros(90)], np.r_[a, b])
    assert auc.value == pytest.approx(expected)
    wins = (a[:, None] > b).astype(float) + 0.5 * (a[:, None] == b)
    variance = wins.mean(1).var() / 60 + wins.mean(0).var() / 90
    floor = 2 * 0.5**2 * (1 / 60**2 + 1 / 90**2)
    assert auc.error == pytest.approx(math.sqrt(variance + floor))


def test_errors_of_a_paired_difference_and_of_a_share_that_is_zero():
    x, y = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 1.0, 2.0, 2.0])
    assert (estimate_mean(x) - estimate_mean(y)).error == pytest.approx((x - y).std() / 2)
    assert estimate_share(np.zeros(50)).error == pytest.approx(math.sqrt(2) / 50)
    pair = Estimate.mean([estimate_share([1, 0]), estimate_share([1, 1])])
    assert pair.value == 0.75
    assert pair.rows[0].tolist() == [1.0, 0.5]


def test_spread_of_one_seed_is_the_default_and_more_seeds_narrow_it():
    one = stats.t.ppf(COVERAGE, PRIOR_SEEDS) * 0.02 * math.sqrt(2)
    assert seed_spread([0.4], 0.02) == pytest.approx(one)
    s = math.sqrt((PRIOR_SEEDS * 0.02**2 + 2 * 0.01**2) / (PRIOR_SEEDS + 1))
    assert seed_spread([0.4, 0.42], 0.02) == pytest.approx(stats.t.ppf(COVERAGE, PRIOR_SEEDS + 1) * s * math.sqrt(1.5))
    widths = [seed_spread([0.4] * k, 0.02) for k in range(1, 8)]
    assert widths == sorted(widths, reverse=True)
    assert seed_spread([0.1, 0.9], 0.02) > one


def line(key="forget_accuracy", group="memory"):
    return Evidence(key, "", group, 0.9, 0.5, [0.5])


def compared(value, rows=400, **changes):
    """A share of about `value` against 0.5 on other rows."""
    hits = np.arange(rows) < value * rows
    half = Estimate(0.5)
    settings = {"practical": 0.1, "default_spread": 0.0, "alpha": 0.05, **changes}
    return compare(line(), estimate_share(np.arange(rows) < 0.9 * rows), estimate_share(hits), half, **settings)


def test_equivalence_needs_the_interval_inside_the_margin_and_difference_needs_it_outside():
    assert compared(0.5).result == "equivalent"
    assert compared(0.5).telling
    assert compared(0.5, rows=20).result == "unclear"  # too few rows
    assert not compared(0.5, rows=40, practical=0.18).telling  # the original is outside, but not by much
    lines = [compared(0.5), compared(0.8), compared(0.58), compared(0.2)]
    settle(lines, 0.05)
    assert [x.result for x in lines] == ["equivalent", "different", "unclear", "different"]
    assert [x.side for x in lines] == [0, 1, 0, -1]
    assert compared(0.2, upper_only=True).result == "equivalent"


def test_reasons_are_corrected_for_their_number():
    lone = [compared(0.65)]  # p about 0.02
    assert 0.01 < lone[0].p_value < 0.05
    settle(lone, 0.05)
    assert lone[0].result == "different"
    many = [compared(0.65), *(compared(0.5) for _ in range(9))]
    settle(many, 0.05)
    assert many[0].result != "different"


def evidence(key, group, side, telling=True, unlearned=0.5):
    out = Evidence(key, "", group, 0.9, unlearned, [0.5], difference=0.3 * side, telling=telling)
    out.result = "different" if side else "equivalent"
    return out


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, SAME),
        ({"forget_accuracy": 1}, LESS),
        ({"membership": 1, "features": 1}, LESS),
        ({"membership": -1, "test_accuracy": -1}, MORE),
        ({"features": 1}, HIDDEN),
        ({"test_accuracy": -1, "forget_accuracy": 1}, DAMAGED),
    ],
)
def test_the_order_of_reasons(changed, verdict):
    groups = {"forget_accuracy": "memory", "membership": "memory", "test_accuracy": "utility", "features": "inside"}
    lines = [evidence(key, group, changed.get(key, 0)) for key, group in groups.items()]
    assert decide(lines, True)[0] == verdict
    if verdict == SAME:
        assert decide(lines, False)[0] == UNCLEAR
        for one in lines:
            one.telling = False
        assert decide(lines, True)[0] == UNCLEAR


# --- behind the outputs -----------------------------------------------------------------------------------------------


def prepared(arch, n=40, seed=0):
    processor = Processor(trained(arch), processing_class(arch))
    return PreparedRows(data_for(arch, n, seed), processor), processor


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", "roberta"])
def test_one_pass_gives_logits_and_what_the_last_layer_reads(arch):
    rows, processor = prepared(arch)
    out = run_model(trained(arch), {"test": rows}, processor, batch_size=16)["test"]
    logits, labels = predict(trained(arch), rows, processor)
    torch.testing.assert_close(out.logits, logits)
    assert torch.equal(out.labels, labels)
    layer = [m for m in trained(arch).modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.testing.assert_close(layer(out.features), logits, rtol=1e-4, atol=1e-5)
    p = logits.double().softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(out.margin, (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)


def test_int8_has_255_levels_for_each_channel_and_the_model_stays():
    model = trained("vit")
    before = copy.deepcopy(model.state_dict())
    rounded = dict(quantised(model, "int8").named_parameters())
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            scale = p.flatten(1).abs().amax(1) / 127
            steps = rounded[name].flatten(1) / scale[:, None].clamp_min(1e-12)
            torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
            assert (rounded[name] - p).flatten(1).abs().amax(1).le(0.51 * scale + 1e-9).all()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="int4"):
        quantised(model, "int4")


def test_probes_find_what_is_there_and_nothing_where_there_is_nothing():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)), dtype=torch.float32)
    side = torch.arange(400) % 4 == 0
    told = x + 3 * side[:, None]
    assert class_probe(told[:200], side[:200], told[200:], side[200:]).value > 0.95
    assert abs(class_probe(x[:200], side[:200], x[200:], side[200:]).value - 0.5) < 0.15
    assert membership_probe(told[side], told[~side]).value > 0.95
    assert abs(membership_probe(x[:150], x[150:]).value - 0.5) < 0.1
    rotation = torch.linalg.qr(torch.tensor(rng.normal(size=(6, 6)), dtype=torch.float32))[0]
    assert feature_similarity(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert feature_similarity(x, x[torch.randperm(400)]) < 0.1


def test_the_curve_ends_where_relearning_counts_its_steps():
    model = trained("vit")
    processor = Processor(model, processing_class("vit"))
    rows = [processor(r) for r in class_split("vit", 80).forget]
    with torch.no_grad():
        model.classifier.bias[1] -= 8
    given = (model, rows[:10], rows[10:], processor)
    *_, (steps, _) = relearn(*given, stop=0.9, learning_rate=5e-3)
    curve = list(relearn(*given, stop=0.9, learning_rate=5e-3, every_step=False))
    assert curve[0][0] == 0
    assert curve[-1][1] >= 0.9
    assert steps <= curve[-1][0] <= steps * 1.125 + 1
    limited = list(relearn(*given, stop=0.9, learning_rate=1e-9, limit=20, every_step=False))
    assert limited[-1][0] == 20


def test_adapters_can_be_switched_off_and_weights_below_them_are_the_originals():
    peft = pytest.importorskip("peft")
    original = trained("vit")
    rows, processor = prepared("vit")
    names = [n for n, m in original.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    model = peft.get_peft_model(trained("vit"), peft.LoraConfig(target_modules=names, init_lora_weights=False))
    was, now = (predict(m, rows, processor)[0] for m in (original, model))
    assert not torch.allclose(was, now)
    with adapters_off(model):
        torch.testing.assert_close(predict(model, rows, processor)[0], was)
    torch.testing.assert_close(predict(model, rows, processor)[0], now)
    assert unchanged_share(model, original) == 1
    assert unchanged_share(model.merge_and_unload(), original) < 1


# --- what is refused --------------------------------------------------------------------------------------------------


class Untouchable(torch.nn.Module):
    """A model that must not be run."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.main_input_name = model, model.config, model.main_input_name

    def forward(self, **inputs):
        raise AssertionError("the model was run")


def settings(**changes):
    split = class_split("vit")
    return {"forget": split.forget, "test": pixel_data(48, 9), "retain": split.retain, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": pixel_data(8).select([])}, "`forget`.* is empty|`forget` is empty"),
        ({"test": pixel_data(8).remove_columns("label")}, "`test`: 8 of 8 rows have no label"),
        ({"test": class_split("vit").forget}, "`forget` and `test` overlap"),
        ({"retain": class_split("vit").forget}, "`forget` and `retain` overlap"),
        ({"kind": "classes"}, "`kind='classes'` is unknown"),
        ({"kind": "class", "forget": pixel_data(8, 3)}, "the retain set has rows of the classes"),
        ({"test": pixel_data(64, 9).filter(lambda r: r["label"] == 1)}, "rows of the forgotten classes only"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused_before_a_model_is_run(changes, message):
    model = Untouchable(trained("vit"))
    with pytest.raises(ValueError, match=message):
        audit_models(model, model, **settings(**changes))


def test_models_that_cannot_be_compared_are_refused_before_a_model_is_run():
    from tests.support.models import build

    original = Untouchable(trained("vit"))
    with pytest.raises(ValueError, match=r"`retrained\[0\]` has a head of 3 classes and `original` one of 4"):
        audit_models(original, original, [build("vit", labels=3)], **settings())
    other = trained("vit")
    other.config = copy.deepcopy(other.config)
    names = list(other.config.label2id)
    other.config.label2id = dict(zip(names, (1, 0, 2, 3), strict=True))
    with pytest.raises(ValueError, match="`unlearned` numbers its classes otherwise"):
        audit_models(original, other, **settings())
    with pytest.raises(ValueError, match="not both of images"):
        audit_models(original, build("bert"), **settings())


def test_nan_is_an_error_that_names_the_model():
    broken = trained("vit")
    with torch.no_grad():
        broken.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="`unlearned` gives NaN"):
        audit_models(trained("vit"), broken, **settings())


# --- command line -----------------------------------------------------------------------------------------------------


def command(root, *words):
    data = {"forget": f"{root / 'data'}:train", "test": root / "data", "forget_class": "1", "use_cpu": "true"}
    return main(["audit", *(str(w) for k, v in data.items() for w in (f"--{k}", v)), *map(str, words)])


def save(folder, model):
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def test_folders_in_and_a_verdict_out(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(96, seed).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    hidden = trained("vit")
    with torch.no_grad():
        hidden.classifier.bias[1] -= 30
    models = ["--original", save(tmp_path / "original", trained("vit"))]
    assert command(tmp_path, *models, "--unlearned", save(tmp_path / "hidden", hidden), "--output_dir", tmp_path) == 1
    assert "No retrained model was given" in capsys.readouterr().out
    audit = Audit.from_dict(json.loads((tmp_path / "audit.json").read_text()))
    assert audit.run["kind"] == "class"
    assert not audit.accepted
    assert audit.verdict in (tmp_path / "audit.md").read_text()
    with pytest.raises(ValueError, match="schema"):
        Audit.from_dict({"schema": "other"})
    assert command(tmp_path, *models, "--unlearned", tmp_path / "hidden", "--forget_class", "9") == 2
    assert "is no class" in capsys.readouterr().err
    assert command(tmp_path, *models, "--unlearned", tmp_path / "nowhere") == 2
    assert "`unlearned`" in capsys.readouterr().err
    bare = trained("vit")
    del bare.classifier
    assert command(tmp_path, *models, "--unlearned", save(tmp_path / "bare", bare)) == 2
    assert "classifier.weight" not in capsys.readouterr().out


def test_an_adapter_folder_is_hidden_and_not_forgotten(tmp_path):
    peft = pytest.importorskip("peft")
    original = trained("vit")
    names = [n for n, m in original.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    adapted = peft.get_peft_model(
        load_classifier(str(save(tmp_path / "original", original)), image_data(4)),
        peft.LoraConfig(target_modules=[f"vit.{n}" for n in names], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_classifier(str(tmp_path / "adapter"), image_data(4))
    rows, processor = prepared("vit")
    torch.testing.assert_close(predict(loaded, rows, processor)[0], predict(adapted, rows, processor)[0])
    audit = audit_models(original, loaded, **settings())
    assert (audit.verdict, audit.because) == (HIDDEN, ["adapter"])


def test_rows_of_one_kind_are_not_accused_of_being_found_by_what_they_are():
    """Some rows of one class, named as samples: that they differ from test rows says nothing without a retrained model."""
    rows = pixel_data(64, 9)
    forget = pixel_data(96).filter(lambda r: r["label"] == 1)
    half, rest = forget.select(range(len(forget) // 2)), pixel_data(96).filter(lambda r: r["label"] != 1)
    model = trained("vit")
    audit = audit_models(model, build_again(model), forget=half, test=rows, retain=rest, kind="samples")
    unjudged = {x.key for x in audit.lines if x.result == "unknown"}
    assert {"membership", "membership_probe"} <= unjudged
    assert any("no random draw" in sentence for sentence in audit.limits)
    assert same_shares(torch.arange(100) % 4, torch.arange(60) % 4)
    assert not same_shares(torch.ones(30, dtype=torch.long), torch.arange(60) % 4)


def build_again(model):
    """Other weights of the same kind, trained on nothing."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.01)
    return other

import copy
import json
import logging
import math
import time

import numpy as np
import pytest
import torch
import transformers

from hf_unlearn import UnlearningTrainer
from hf_unlearn.methods.components.wasserstein import (
    StreamingMoments,
    affine_maps,
    gaussian_barycenter,
)
from hf_unlearn.methods.wasserstein_barycenter import WassersteinBarycenter, fit_barycenter
from hf_unlearn.models.barycenter_layer import RECORD, TENSORS, Barycenter, attach, attached, detach, save_barycenter
from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.structure import find_last_layer
from tests.support.data import data_for, processing_class
from tests.support.models import build, changed, state, trained
from tests.support.runs import arguments

ARCHS = ("resnet", "vit", "bert")


def random_covariances(groups, d, seed=0, condition=100.0):
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(groups):
        q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
        out.append(q @ torch.diag(torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)) @ q.mT)
    return torch.stack(out)


# --- the barycenter of Gaussians --------------------------------------------------------------------------------------


def test_in_one_dimension_the_deviation_is_the_mean_deviation():
    sigma, pi = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = gaussian_barycenter((sigma**2).view(3, 1, 1), pi)
    assert found.sqrt().item() == pytest.approx((pi * sigma).sum().item(), rel=1e-10)


def test_commuting_covariances_average_their_roots():
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    scale, pi = torch.rand(3, 6, dtype=torch.float64) + 0.1, torch.tensor([1.0, 2, 3], dtype=torch.float64)
    found = gaussian_barycenter(q @ torch.diag_embed(scale**2) @ q.mT, pi)
    expected = q @ torch.diag(((pi / 6)[:, None] * scale).sum(0) ** 2) @ q.mT
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("groups", "condition"), [(2, 10.0), (4, 100.0), (3, 1e4)])
def test_barycenter_is_that_of_pot(groups, condition):
    ot = pytest.importorskip("ot")
    covariances = random_covariances(groups, 8, condition=condition)
    pi = torch.arange(1.0, groups + 1).double() / sum(range(1, groups + 1))
    _, theirs = ot.gaussian.bures_wasserstein_barycenter(
        np.zeros((groups, 8)), covariances.numpy(), pi.numpy(), eps=1e-12, num_iter=5000
    )
    np.testing.assert_allclose(gaussian_barycenter(covariances, pi).numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8, 1e11])
def test_maps_carry_every_group_to_the_same_law_and_are_optimal(condition):
    covariances, pi = random_covariances(3, 12, condition=condition), torch.tensor([0.2, 0.3, 0.5]).double()
    means = torch.randn(3, 12, dtype=torch.float64)
    maps, offsets = affine_maps(means, covariances, pi)
    target = gaussian_barycenter(covariances, pi)
    torch.testing.assert_close(
        maps @ covariances @ maps.mT, target.expand(3, -1, -1), atol=1e-9 * target.norm().item(), rtol=0
    )
    centre = (pi[:, None] * means).sum(0).expand(3, -1)
    torch.testing.assert_close((maps @ means[..., None])[..., 0] + offsets, centre)
    # Symmetric and positive: the optimal transport. The maps back average to the identity: the barycenter.
    torch.testing.assert_close(maps, maps.mT)
    assert (torch.linalg.eigvalsh(maps) > 0).all()
    if condition <= 1e4:
        back = (pi[:, None, None] * torch.linalg.inv(maps)).sum(0)
        torch.testing.assert_close(back, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)


def test_no_convergence_is_an_error():
    with pytest.raises(ArithmeticError, match="`max_iter=2`"):
        gaussian_barycenter(random_covariances(3, 10), torch.ones(3), max_iter=2)


@pytest.mark.parametrize(
    ("covariances", "weights", "said"),
    [
        (torch.zeros(2, 3, 3), torch.ones(2), "positive definite"),
        (torch.full((2, 3, 3), math.nan), torch.ones(2), "positive definite"),
        (torch.eye(3), torch.ones(3), "`covariances`"),
        (torch.eye(3).expand(2, 3, 3), torch.ones(3), "`weights`"),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, -1]), "`weights`"),
        (torch.eye(3).expand(2, 3, 3), torch.zeros(2), "`weights`"),
    ],
)
def test_what_is_no_set_of_gaussians_is_refused(covariances, weights, said):
    with pytest.raises(ValueError, match=said):
        gaussian_barycenter(covariances, weights)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_streaming_moments_equal_those_of_one_batch():
    x = torch.randn(500, 7) * 0.01 + 1000  # far from zero: sums of squares would lose every digit
    group = torch.randint(3, (500,))
    moments = StreamingMoments(7)
    for start in range(0, 500, 13):
        moments.update(x[start : start + 13], group[start : start + 13])
    covariances = moments.covariances()
    for k in range(3):
        rows = x[group == k].double()
        assert moments.counts[k] == len(rows)
        torch.testing.assert_close(moments.means[k], rows.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(covariances[k], rows.mT.cov(), rtol=1e-8, atol=1e-13)


def test_streaming_moments_refuse_nan_and_single_samples():
    moments = StreamingMoments(2)
    with pytest.raises(ValueError, match="NaN"):
        moments.update(torch.full((2, 2), math.nan), torch.zeros(2).long())
    moments.update(torch.randn(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="group 1 has 1 samples"):
        moments.covariances()


@pytest.mark.slow
def test_fit_of_20_000_rows_of_256_features_is_fast():
    started = time.perf_counter()
    moments, mix = StreamingMoments(256), torch.randn(4, 256, 256) / 16 + 0.3 * torch.eye(256)
    for _ in range(157):
        x, group = torch.randn(128, 256), torch.randint(4, (128,))
        moments.update(torch.einsum("nd,nde->ne", x, mix[group]), group)
    maps, _ = affine_maps(torch.stack(moments.means), moments.covariances(), torch.tensor(moments.counts))
    mapped = maps @ moments.covariances() @ maps.mT
    torch.testing.assert_close(mapped, mapped[:1].expand_as(mapped), atol=1e-7, rtol=0)
    assert time.perf_counter() - started < 60


# --- the module -------------------------------------------------------------------------------------------------------


def grouped_features(n=3000, d=5, groups=3):
    group = torch.arange(n) % groups
    mix = torch.randn(groups, d, d)
    return torch.einsum("nd,nde->ne", torch.randn(n, d), mix[group]) + 3 * torch.randn(groups, d)[group], group


def barycenter_of(x, group, **changes):
    moments = StreamingMoments(x.shape[1])
    moments.update(x, group)
    maps, offsets = affine_maps(
        torch.stack(moments.means), moments.covariances(), torch.tensor(moments.counts, dtype=torch.float64)
    )
    return Barycenter(maps, offsets, list(range(len(maps))), "z", **changes)


def test_mapped_groups_have_equal_mean_and_covariance():
    x, group = grouped_features()
    mapped = barycenter_of(x, group)(x, group)
    for k in (1, 2):
        a, b = mapped[group == 0].double(), mapped[group == k].double()
        torch.testing.assert_close(a.mean(0), b.mean(0), atol=1e-4, rtol=0)
        torch.testing.assert_close(a.mT.cov(), b.mT.cov(), atol=1e-3, rtol=1e-4)


def test_strength_goes_from_the_identity_to_the_map():
    x, group = grouped_features()
    full = barycenter_of(x, group)(x, group)
    assert torch.equal(barycenter_of(x, group, strength=0.0)(x, group), x)
    torch.testing.assert_close(barycenter_of(x, group, strength=0.3)(x, group), 0.7 * x + 0.3 * full)


def test_shape_and_dtype_of_the_features_are_kept():
    x, group = grouped_features(24)
    barycenter = barycenter_of(*grouped_features())
    flat = barycenter(x, group)
    assert torch.equal(barycenter(x.view(4, 6, 5), group.view(4, 6)).view(24, 5), flat)
    assert torch.equal(barycenter(x.view(4, 6, 5), group[:4])[2], barycenter(x[12:18], group[2].expand(6)))
    assert barycenter(x.bfloat16(), group).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(barycenter(x, group), flat)
    barycenter.half()
    assert barycenter.maps.dtype == torch.float32
    with pytest.raises(ValueError, match="2 groups were given for a batch of 24"):
        barycenter(x, group[:2])


def test_groups_are_given_known_or_refused():
    x, group = grouped_features(30)
    barycenter = barycenter_of(*grouped_features())
    with barycenter.groups(group):
        inside = barycenter(x)
    assert torch.equal(inside, barycenter(x, group))
    with pytest.raises(ValueError, match="`predict_group=False`"):
        barycenter(x)
    with pytest.raises(ValueError, match="7 is not a value of 'z'"), barycenter.groups([7]):
        pass


# --- on a model -------------------------------------------------------------------------------------------------------


def attributed(arch, n=192, seed=0):
    """Data whose attribute `user` says whether the class is one of the upper two."""
    data = data_for(arch, n, seed)
    return data.add_column("user", ["high" if label > 1 else "low" for label in data["label"]])


def fitted(arch, model=None, **settings):
    model = trained(arch) if model is None else model
    data, processor = attributed(arch), Processor(model, processing_class(arch))
    return model, data, processor, fit_barycenter(model, data, processor, "user", **settings)


def batch_of(data, processor, n=32):
    return model_inputs(processor.collate([data[i] for i in range(n)]))


@pytest.mark.parametrize("arch", ["resnet", "vit", "convnext", "swin", "bert", "distilbert", "roberta"])
def test_features_of_the_groups_are_brought_together_on_every_model(arch):
    model, data, processor, barycenter = fitted(arch)
    before = state(model)
    attach(model, barycenter)
    assert not changed(before, state(model))
    inputs, seen = batch_of(data, processor, len(data)), []
    handle = find_last_layer(model).register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    group = np.array(data["user"])
    with torch.no_grad(), barycenter.groups(group):
        model(**inputs)
    detach(model)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    gap = [(x[group == "high"].mean(0) - x[group == "low"].mean(0)).norm().item() for x in seen]
    assert gap[0] < 0.01 * gap[1]
    assert barycenter.record["group_accuracy"] > 0.9


@pytest.mark.parametrize("arch", ARCHS)
def test_known_and_predicted_groups_agree_where_the_prediction_is_right(arch):
    model, data, processor, barycenter = fitted(arch)
    attach(model, barycenter)
    inputs, group = batch_of(data, processor), data["user"][:32]
    predictions = []
    handle = find_last_layer(model).register_forward_pre_hook(
        lambda m, args: predictions.append(barycenter.predict(args[0])), prepend=True
    )
    with torch.no_grad():
        predicted = model(**inputs).logits
        with barycenter.groups(group):
            known = model(**inputs).logits
        with barycenter.groups([{"low": "high", "high": "low"}[g] for g in group]):
            swapped = model(**inputs).logits
    handle.remove()
    right = torch.tensor([barycenter.names[p] == g for p, g in zip(predictions[0], group, strict=True)])
    assert right.float().mean() > 0.9
    assert torch.equal(predicted[right], known[right])
    assert not torch.allclose(swapped, known)


@pytest.mark.parametrize("arch", ARCHS)
def test_saved_and_loaded_model_gives_the_same_logits(arch, tmp_path):
    model, data, processor, barycenter = fitted(arch, strength=0.8)
    plain = model(**batch_of(data, processor)).logits
    attach(model, barycenter)
    model.save_pretrained(tmp_path)
    save_barycenter(model, tmp_path)
    auto = getattr(transformers, f"AutoModelFor{'SequenceC' if arch == 'bert' else 'ImageC'}lassification")
    with torch.no_grad():
        expected = model(**batch_of(data, processor)).logits
        for model_class in (None, auto):
            loaded = WassersteinBarycenter.from_pretrained(tmp_path, model_class).eval()
            assert type(loaded) is type(model)
            assert torch.equal(loaded(**batch_of(data, processor)).logits, expected)
    again = attached(loaded)
    assert (again.names, again.strength, again.attribute) == (barycenter.names, 0.8, "user")
    assert again.record == barycenter.record
    # The folder still is an ordinary model.
    ordinary, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys"))
    assert torch.equal(ordinary.eval()(**batch_of(data, processor)).logits, plain)
    assert not torch.allclose(plain, expected)


def test_broken_files_are_refused(tmp_path):
    *_, barycenter = fitted("vit")
    with pytest.raises(OSError, match=RECORD):
        Barycenter.load(tmp_path)
    barycenter.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([TENSORS, RECORD])
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(ValueError, match="schema"):
        Barycenter.load(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({**record, "sha256": "0"}))
    with pytest.raises(ValueError, match="not from the same save"):
        Barycenter.load(tmp_path)


def test_attach_and_detach_leave_the_model_as_it_was():
    model, data, processor, barycenter = fitted("vit")
    inputs = batch_of(data, processor)
    before = model(**inputs).logits
    attach(model, barycenter)
    twin = copy.deepcopy(model)
    with pytest.raises(ValueError, match="carries a barycenter already"):
        attach(model, barycenter)
    with pytest.raises(ValueError, match="carries a barycenter already"):
        fit_barycenter(model, data, processor, "user")
    after = model(**inputs).logits
    assert detach(model) is barycenter
    assert torch.equal(model(**inputs).logits, before)
    assert not torch.allclose(before, after)
    assert torch.equal(twin(**inputs).logits, after)  # a copy has its own
    assert attached(twin) is not barycenter
    detach(twin)
    assert torch.equal(twin(**inputs).logits, before)
    for action in (detach, lambda m: save_barycenter(m, "nowhere")):
        with pytest.raises(ValueError, match="carries no barycenter"):
            action(model)
    with pytest.raises(ValueError, match="fitted on another model"):
        attach(build("resnet"), Barycenter(torch.zeros(2, 3, 3), torch.zeros(2, 3), [0, 1], "z"))


def test_decoders_are_fitted_on_the_token_that_answers():
    config = transformers.GPT2Config(
        vocab_size=28, n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=4, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    _, data, processor, barycenter = fitted("bert", model)
    attach(model, barycenter)
    group = np.array(data["user"])
    with torch.no_grad(), barycenter.groups(group):
        logits = model(**batch_of(data, processor, len(data))).logits
    gap = (logits[group == "high"].mean(0) - logits[group == "low"].mean(0)).norm()
    assert gap < 1e-3 * logits.std()


def test_the_fit_reads_streams_in_eval_mode_and_depends_on_no_batch_size():
    model, data, processor, first = fitted("bert", trained("bert", dropout=0.1).train())
    assert model.training
    second = fit_barycenter(model, data.to_iterable_dataset(), processor, "user", batch_size=7)
    assert second.names == first.names
    torch.testing.assert_close(second.maps, first.maps, atol=1e-3, rtol=1e-3)


def test_method_applies_and_describes_itself():
    model, data, processor, barycenter = fitted("vit")
    method = WassersteinBarycenter(attribute="user", predict_group=False)
    applied = method.apply(model, data, processor)
    assert attached(model) is applied
    torch.testing.assert_close(applied.maps, barycenter.maps, atol=1e-4, rtol=1e-4)
    assert applied.weight is None
    assert method.describe() == {
        "method": "wasserstein_barycenter",
        "attribute": "user",
        "strength": 1.0,
        "ridge": 1e-6,
        "predict_group": False,
        "anchors": False,
        "anchor_weight": 1.0,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attribute": "z", "strength": 1.5}, "`strength`"),
        ({"attribute": "z", "ridge": -1.0}, "`ridge`"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        WassersteinBarycenter(**settings)


def test_small_groups_get_a_ridge_and_a_warning(caplog):
    model = trained("vit")
    data, processor = attributed("vit", 24), Processor(model, processing_class("vit"))
    with caplog.at_level(logging.WARNING, "hf_unlearn.methods.wasserstein_barycenter"):
        barycenter = fit_barycenter(model, data, processor, "user")
    assert "'low' (12), 'high' (12) has fewer rows than the 16 features" in caplog.text
    assert torch.isfinite(barycenter(torch.randn(5, 16))).all()
    with pytest.raises(ValueError, match="`ridge=0` leaves a singular"):
        fit_barycenter(model, data, processor, "user", ridge=0.0)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["a"] * 64, "has 1 distinct value"),
        (["a", None] * 32, "is missing"),
        (["a"] * 63 + ["b"], "the group 'b' has 1 row"),
        (np.linspace(0, 1, 64), "continuous: each needs many rows of its own. Bin it"),
        ([f"user {i}" for i in range(64)], "more than 32 distinct values: each"),
        ([["a"]] * 64, "holds a list"),
    ],
)
def test_attributes_that_make_no_groups_are_refused(column, said):
    model = build("vit")
    data = data_for("vit", 64).add_column("z", column)
    with pytest.raises(ValueError, match=said):
        fit_barycenter(model, data, Processor(model), "z")


def test_missing_column_is_named():
    model = build("vit")
    with pytest.raises(ValueError, match="`attribute='age'` is not in `dataset`, which has pixel_values, label"):
        fit_barycenter(model, data_for("vit", 8), Processor(model), "age")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("streamed", [False, True], ids=["map", "stream"])
def test_trainer_fits_reports_saves_and_gives_the_original_back(tmp_path, arch, streamed):
    data, model = data_for(arch, 160), trained(arch)
    before = state(model)
    trainer = UnlearningTrainer(
        model=model,
        args=arguments(tmp_path, forget_kind="auto"),
        method=WassersteinBarycenter(attribute="group"),
        retain_dataset=data.to_iterable_dataset() if streamed else data,
        processing_class=processing_class(arch),
    )
    trainer.train()
    assert trainer.outcome.ok, trainer.outcome.warnings
    assert not changed(before, state(model))
    assert attached(model) is not None
    with trainer.original_weights() as original:
        assert attached(original) is None
    report = trainer.report(test_dataset=data_for(arch, 40, 9))
    assert {"original", "unlearned"} == set(report.models)
    trainer.save_model(str(tmp_path / "saved"))
    again = WassersteinBarycenter.from_pretrained(tmp_path / "saved").eval()
    batch = trainer.processor.collate([trainer.processor(r) for r in data.select(range(8))])
    with torch.no_grad():
        assert torch.allclose(again(**model_inputs(batch)).logits, model(**model_inputs(batch)).logits, atol=1e-6)


def test_trainer_without_an_attribute_is_refused(tmp_path):
    trainer = UnlearningTrainer(
        model=trained("vit"),
        args=arguments(tmp_path, forget_kind="auto"),
        method=WassersteinBarycenter(),
        retain_dataset=data_for("vit"),
        processing_class=processing_class("vit"),
    )
    with pytest.raises(ValueError, match="`attribute` is missing"):
        trainer.train()


def test_kept_accuracy_that_goes_with_the_attribute_is_no_success(tmp_path):
    data = data_for("vit", 160)
    told = data.remove_columns("group").add_column("group", [label // 2 for label in data["label"]])
    trainer = UnlearningTrainer(
        model=trained("vit"),
        args=arguments(tmp_path, forget_kind="auto", max_retain_drop=0.05),
        method=WassersteinBarycenter(attribute="group"),
        retain_dataset=told,
        processing_class=processing_class("vit"),
    )
    trainer.train()
    assert trainer.outcome.retain_start > 0.9
    assert trainer.outcome.retain_end < 0.8
    assert any("kept data collapsed" in w for w in trainer.outcome.warnings)

"""The layer that maps groups together: its arithmetic, on a model, in files."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers

from hf_unlearn.methods.components.wasserstein import (
    StreamingMoments,
    affine_maps,
)
from hf_unlearn.methods.wasserstein_barycenter import WassersteinBarycenter, fit_barycenter
from hf_unlearn.models.barycenter_layer import RECORD, TENSORS, Barycenter, attach, attached, detach, save_barycenter
from hf_unlearn.models.structure import find_last_layer
from tests.support.barycenters import fitted, leading_batch
from tests.support.models import build, changed, state
from tests.support.tables import slow

ARCHS = ("resnet", "vit", "bert")


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


@pytest.mark.parametrize("arch", ["resnet", "bert", *slow("vit", "convnext", "swin", "distilbert", "roberta")])
def test_features_of_the_groups_are_brought_together_on_every_model(arch):
    model, data, processor, barycenter = fitted(arch)
    before = state(model)
    attach(model, barycenter)
    assert not changed(before, state(model))
    inputs, seen = leading_batch(data, processor, len(data)), []
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
    inputs, group = leading_batch(data, processor), data["user"][:32]
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


def test_attach_and_detach_leave_the_model_as_it_was():
    model, data, processor, barycenter = fitted("vit")
    inputs = leading_batch(data, processor)
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


# --- in files ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_saved_and_loaded_model_gives_the_same_logits(arch, tmp_path):
    model, data, processor, barycenter = fitted(arch, strength=0.8)
    plain = model(**leading_batch(data, processor)).logits
    attach(model, barycenter)
    model.save_pretrained(tmp_path)
    save_barycenter(model, tmp_path)
    auto = getattr(transformers, f"AutoModelFor{'SequenceC' if arch == 'bert' else 'ImageC'}lassification")
    with torch.no_grad():
        expected = model(**leading_batch(data, processor)).logits
        for model_class in (None, auto):
            loaded = WassersteinBarycenter.from_pretrained(tmp_path, model_class).eval()
            assert type(loaded) is type(model)
            assert torch.equal(loaded(**leading_batch(data, processor)).logits, expected)
    again = attached(loaded)
    assert (again.names, again.strength, again.attribute) == (barycenter.names, 0.8, "user")
    assert again.record == barycenter.record
    # The folder still is an ordinary model.
    ordinary, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys"))
    assert torch.equal(ordinary.eval()(**leading_batch(data, processor)).logits, plain)
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

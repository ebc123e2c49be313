"""What an audit keeps of original and retrained models: the same figures again, and nothing that could be mistaken for them."""

import copy
import stat

import pytest
import torch

from hf_unlearn import Auditor, audit_models
from hf_unlearn.evaluation.audit.measured_cache import MeasuredCache
from tests.support.models import build, trained

from .support import Untouchable, audited_sets


def moved(seed):
    """A model near the original, as a retrained one may be."""
    model = copy.deepcopy(trained("vit"))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=draw))
    return model


def adapted():
    """The original below an adapter that is not zero."""
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(trained("vit"))
    names = [n for n, m in model.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    config = peft.LoraConfig(target_modules=[f"vit.{n}" for n in names], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def files(folder):
    return sorted(p.name for p in folder.glob("*.safetensors"))


def auditor(cache, **changes):
    return Auditor(trained("vit"), audit_cache=cache, **audited_sets(**changes))


def never(*_args, **_kwargs):
    raise AssertionError("a model was measured again")


def assert_same(a, b):
    for name, rows in a.outputs.items():
        other = b.outputs[name]
        pairs = [(rows.logits, other.logits), (rows.features, other.features), (rows.labels, other.labels)]
        pairs += zip(rows.blocks, other.blocks, strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
    assert all(torch.equal(a.rounded[k], b.rounded[k]) for k in ("int8", "bf16"))
    assert (a.sample is None) == (b.sample is None)
    assert a.sample is None or torch.equal(a.sample, b.sample)
    for name in ("curves", "unchanged", "weights", "unsteady", "network", "hidden_curves"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.slow
def test_the_next_audit_measures_the_candidate_alone_and_finds_the_same(tmp_path, monkeypatch):
    cache, given = tmp_path / "cache", [moved(1), moved(2)]
    first = audit_models(trained("vit"), moved(3), given, audit_cache=cache, **audited_sets())
    assert len(files(cache)) == 3  # the original and two retrained models
    measure, names = Auditor._measure, []
    monkeypatch.setattr(
        Auditor, "_measure", lambda self, m, name, *rest: names.append(name) or measure(self, m, name, *rest)
    )
    again = audit_models(trained("vit"), moved(3), given, audit_cache=cache, **audited_sets())
    assert names == ["unlearned"]
    assert again.as_dict() == first.as_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "adapter"])
def test_what_is_read_is_what_was_written(tmp_path, kind):
    model = adapted() if kind == "adapter" else moved(1)
    found = auditor(tmp_path).measure(model, "retrained[0]")
    read = auditor(tmp_path).measure(model, "retrained[4]")
    assert read is not found
    assert read.name == "retrained[4]"
    assert_same(read, found)
    assert (read.without_adapters is None) == (kind == "plain")
    if kind == "adapter":
        assert torch.equal(read.without_adapters.logits, found.without_adapters.logits)


@pytest.mark.slow
def test_every_thing_that_figures_depend_on_has_a_file_of_its_own(tmp_path):
    """Each of these audits reads no file of one before."""
    sets = audited_sets()
    backwards = sets["test"].select(range(len(sets["test"]))[::-1])
    other_labels = sets["test"].map(lambda r, i: {"label": (r["label"] + (i == 0)) % 4}, with_indices=True)
    seen = set()
    for changes in (
        {},
        {"test": backwards},
        {"test": other_labels},
        {"retain": None},
        {"batch_size": 16},
        {"audit_seed": 3},
    ):
        auditor(tmp_path, **changes)
        new = set(files(tmp_path)) - seen
        assert len(new) == 1, changes
        seen |= new
    Auditor(moved(1), audit_cache=tmp_path, **sets)
    assert len(files(tmp_path)) == len(seen) + 1
    auditor(tmp_path).measure(build("vit"), "retrained[0]")
    assert len(files(tmp_path)) == len(seen) + 2


@pytest.mark.slow
def test_neither_the_judged_model_nor_one_with_code_of_its_own_is_kept(tmp_path, caplog):
    made = auditor(tmp_path)
    before = files(tmp_path)
    made.measure(moved(1), "unlearned")
    wrapper = Untouchable(moved(1))
    wrapper.forward = wrapper.model.forward
    assert MeasuredCache(tmp_path, trained("vit")).file(wrapper, {}) is None
    assert "does not keep a Untouchable" in caplog.text
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_damaged_file_is_named_and_measured_again(tmp_path, caplog):
    expected = auditor(tmp_path).original
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        caplog.clear()
        assert_same(auditor(tmp_path).original, expected)
        assert file.name in caplog.text
        assert file.read_bytes() == whole


@pytest.mark.slow
def test_the_folder_is_its_owners_alone_and_its_seed_is_its_own(tmp_path):
    seeds = {name: auditor(tmp_path / name).audit_seed for name in ("a", "b")}
    assert len(set(seeds.values())) == 2
    assert auditor(tmp_path / "a").audit_seed == seeds["a"]
    assert MeasuredCache(tmp_path / "a", moved(1)).seed != seeds["a"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a").iterdir()} == {0o600}


def test_a_folder_that_cannot_be_used_is_refused_before_a_model_is_run(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Auditor, "_measure", never)
    with pytest.raises(ValueError, match=r"`audit_cache=.*file'` cannot be used"):
        auditor(tmp_path / "file")

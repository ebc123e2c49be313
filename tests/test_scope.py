import re

import pytest
import torch
import transformers
from safetensors.torch import save_file

from hf_unlearn.models.snapshot import Snapshot, fingerprints
from hf_unlearn.models.structure import default_targets, find_blocks, find_head
from hf_unlearn.models.trainable import restrict, updated_names
from tests.support.data import TEXT, VISION
from tests.support.models import build, changed, state

BLOCKS = {"resnet": 2, "vit": 2, "convnext": 3, "swin": 2, "bert": 2, "distilbert": 2, "roberta": 2}


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_head_is_what_the_last_class_sized_layer_belongs_to(arch):
    model = build(arch)
    head = model.get_submodule(find_head(model))
    linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert linear[-1].out_features == model.config.num_labels
    names = updated_names(model, "head")
    assert names == [f"{find_head(model)}.{n}" for n, _ in head.named_parameters()]
    assert len(names) < len(updated_names(model, "all"))


def test_head_is_found_by_its_width_under_an_unusual_name():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(5, 7)
            self.answer = torch.nn.Linear(7, 3)
            self.config = type("Config", (), {"num_labels": 3})

    assert updated_names(Odd(), "head") == ["answer.weight", "answer.bias"]
    odd = Odd()
    odd.config = type("Config", (), {"num_labels": 99})
    with pytest.raises(ValueError, match="`update='head'`"):
        updated_names(odd, "head")


def distilled(kind):
    """A classifier with two heads, whose logits it averages."""
    t = transformers
    if kind == "levit":
        return t.LevitForImageClassificationWithTeacher(t.LevitConfig(num_labels=4))
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(image_size=16, patch_size=8, num_labels=4, **small))


@pytest.mark.parametrize(
    ("kind", "heads"),
    [("deit", ["cls_classifier", "distillation_classifier"]), ("levit", ["classifier", "classifier_distill"])],
)
def test_the_head_of_a_distilled_model_is_both_heads(kind, heads):
    model = distilled(kind)
    want = [n for n, _ in model.named_parameters() if n.partition(".")[0] in heads]
    assert updated_names(model, "head") == want
    assert {n.partition(".")[0] for n in want} == set(heads)
    assert set(want) < set(updated_names(model, "last:1"))
    assert not set(default_targets(model)) & {n for n, _ in model.named_modules() if n.startswith(tuple(heads))}


def test_blocks_that_share_their_weights_cannot_be_counted():
    config = transformers.AlbertConfig(
        vocab_size=9, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(ValueError, match="`update='last:1'`: the model has no blocks of its own"):
        updated_names(transformers.AlbertForSequenceClassification(config), "last:1")


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_blocks_are_disjoint_ordered_and_complete(arch):
    model = build(arch)
    blocks = find_blocks(model)
    assert len(blocks) == BLOCKS[arch]
    order = [min(i for i, (n, _) in enumerate(model.named_parameters()) if n.startswith(b + ".")) for b in blocks]
    assert order == sorted(order)
    assert not any(a != b and a.startswith(b + ".") for a in blocks for b in blocks)


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_last_n_grows_towards_all_and_never_takes_embeddings(arch):
    model = build(arch)
    everything = updated_names(model, "all")
    assert everything == [n for n, _ in model.named_parameters()]
    blocks = find_blocks(model)
    previous = set(updated_names(model, "head"))
    for n in range(1, len(blocks) + 1):
        chosen = set(updated_names(model, f"last:{n}"))
        assert previous < chosen
        for i, block in enumerate(blocks):
            inside = [name in chosen for name in everything if name.startswith(block + ".")]
            assert all(inside) if i >= len(blocks) - n else not any(inside)
        assert not [name for name in chosen if "embed" in name and "layer" not in name and "stage" not in name]
        previous = chosen


def test_regular_expression_selects_by_search():
    model = build("vit")
    names = updated_names(model, r"classifier|layernorm_after")
    assert names
    assert set(names) == {n for n, _ in model.named_parameters() if re.search("classifier|layernorm_after", n)}


@pytest.mark.parametrize("update", ["last:0", "last:3", "no_such_parameter", "(", "last:x"])
def test_bad_update_is_refused_by_name(update):
    with pytest.raises(ValueError, match=re.escape(f"`update={update!r}`")):
        updated_names(build("vit"), update)


def test_restrict_freezes_everything_else():
    model = build("bert")
    restrict(model, updated_names(model, "head"))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(updated_names(model, "head"))
    restrict(model, updated_names(model, "all"))
    assert all(p.requires_grad for p in model.parameters())


def test_fingerprints_change_with_one_bit_and_only_there():
    model = build("resnet")
    before = fingerprints(model)
    assert before.keys() == model.state_dict().keys()
    assert fingerprints(model) == before
    with torch.no_grad():
        weight = next(model.parameters()).view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    after = fingerprints(model)
    assert [n for n in before if before[n] != after[n]] == [next(iter(dict(model.named_parameters())))]
    model.half()
    assert fingerprints(model).keys() == before.keys()


def test_snapshot_goes_back_exactly_and_only_for_its_names():
    model = build("resnet")
    before, names = state(model), updated_names(model, "head")
    snapshot = Snapshot(model, names)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert changed(before, state(model)) == set(before)
    snapshot.restore(model)
    buffers = {name for name, _ in model.named_buffers()}
    assert changed(before, state(model)) == set(before) - set(names) - buffers


def test_snapshot_holds_the_statistics_that_belong_to_its_parameters():
    model = build("resnet")
    original = Snapshot(model, updated_names(model, "head"))
    before = state(model)
    model.train()
    for _ in range(3):
        model(pixel_values=torch.randn(4, 3, 16, 16))
    moved = Snapshot(model, updated_names(model, "head"))
    assert len(changed(before, state(model))) > 0
    original.mixed(moved, 0.5).restore(model)
    name = "resnet.embedder.embedder.normalization."
    middle = (before[name + "running_mean"] + moved.tensors[name + "running_mean"]) / 2
    assert torch.allclose(model.state_dict()[name + "running_mean"], middle)
    assert model.state_dict()[name + "num_batches_tracked"] == 3
    original.restore(model)
    assert not changed(before, state(model))


def test_snapshot_of_channels_last_weights_can_be_saved(tmp_path):
    model = build("resnet").to(memory_format=torch.channels_last)
    save_file(Snapshot(model, updated_names(model, "all")).tensors, tmp_path / "good.safetensors")

"""Heads, blocks and layers of classifiers of many architectures."""

import pytest
import torch
import transformers

from hf_unlearn.models.forward import model_inputs
from hf_unlearn.models.structure import default_targets, find_blocks, find_head, find_last_layer, last_layer_inputs
from hf_unlearn.models.trainable import updated_names
from tests.models.support import adapted, batch_of
from tests.support.data import TEXT, VISION
from tests.support.models import build

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


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_blocks_are_disjoint_ordered_and_complete(arch):
    model = build(arch)
    blocks = find_blocks(model)
    assert len(blocks) == BLOCKS[arch]
    order = [min(i for i, (n, _) in enumerate(model.named_parameters()) if n.startswith(b + ".")) for b in blocks]
    assert order == sorted(order)
    assert not any(a != b and a.startswith(b + ".") for a in blocks for b in blocks)


@pytest.mark.parametrize("arch", VISION + TEXT)
def test_the_last_layer_reads_features_and_gives_the_logits(arch):
    model, inputs = build(arch).eval(), model_inputs(batch_of(arch))
    with torch.no_grad(), last_layer_inputs(model) as seen:
        logits = model(**inputs).logits
    ((features, outputs),) = seen
    assert torch.equal(outputs, logits)
    assert torch.equal(find_last_layer(model)(features), logits)
    with torch.no_grad():
        model(**inputs)
    assert len(seen) == 1, "a hook was left behind"


def test_the_copy_of_the_last_layer_that_is_in_use_is_seen():
    model, inputs = adapted("bert", modules_to_save=["classifier"]), model_inputs(batch_of("bert"))
    copies = model.base_model.model.classifier
    with torch.no_grad(), last_layer_inputs(model.get_base_model()) as seen:
        copies.modules_to_save["default"].weight.add_(1.0)
        logits = model(**inputs).logits
        with model.disable_adapter():
            original = model(**inputs).logits
    assert torch.equal(seen[0][1], logits)
    assert torch.equal(seen[1][1], original)
    assert not torch.equal(logits, original)


def test_a_head_without_such_a_layer_is_refused():
    model = build("vit")
    model.classifier = torch.nn.Linear(16, 7)
    with pytest.raises(ValueError, match=r"its head \(Linear\) has no linear layer with 4 outputs"):
        find_last_layer(model)


def test_convolutions_are_the_default_targets_of_a_model_without_linear_layers():
    model = build("resnet")
    expected = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and "encoder" in n]
    assert default_targets(model) == expected
    with pytest.raises(ValueError, match="no layer to adapt was found"):
        default_targets(model, norms=True)

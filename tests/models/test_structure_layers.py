"""Which parameters form a layer."""

from collections import OrderedDict

import pytest
from torch import nn

from hf_unlearn.models.structure import layer_groups
from tests.support.models import build


@pytest.mark.parametrize("arch", ["vit", "resnet", "bert", "distilbert", "roberta", "swin", "convnext"])
def test_layers_are_the_blocks_between_embeddings_and_head(arch):
    model = build(arch)
    names = [n for n, _ in model.named_parameters()]
    groups = layer_groups(model, names)
    assert sorted(n for group in groups.values() for n in group) == sorted(names)
    assert next(iter(groups)) == "embeddings"
    assert list(groups)[-1] == "head"
    assert len(groups) >= 4
    assert all("embed" in n for n in groups["embeddings"])
    assert any(n.startswith("classifier") for n in groups["head"])
    assert list(layer_groups(model, ["classifier.weight" if "classifier.weight" in names else names[-1]])) == ["head"]


def test_layers_of_a_model_without_blocks_are_its_modules():
    model = nn.Sequential(OrderedDict(linear=nn.Linear(16, 1)))
    assert list(layer_groups(model, ["linear.weight", "linear.bias"])) == ["linear"]

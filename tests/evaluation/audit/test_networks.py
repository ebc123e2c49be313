"""Weights of a model beside those of the original."""

import re

import pytest
import torch

from hf_unlearn.evaluation.audit.networks import (
    SAMPLE,
    distance_share,
    network_difference,
    sampled_weights,
    unchanged_share,
)
from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification
from tests.support.models import build, trained


def mlp(*hidden, labels=4):
    torch.manual_seed(0)
    return PixelMLPForImageClassification(PixelMLPConfig(image_size=8, hidden_sizes=hidden, num_labels=labels))


class Wrapper(torch.nn.Module):
    def __init__(self, model, more=0):
        super().__init__()
        self.model, self.config = model, model.config
        if more:
            self.gate = torch.nn.Parameter(torch.zeros(more))


def test_adapters_and_wrappers_are_no_other_network():
    peft = pytest.importorskip("peft")
    original = trained("vit")
    names = [n for n, m in original.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    config = peft.LoraConfig(target_modules=names, modules_to_save=["classifier"])
    for model in (trained("vit"), Wrapper(trained("vit")), peft.get_peft_model(trained("vit"), config)):
        assert network_difference(model, original) == ""
        assert unchanged_share(model, original) == 1
        assert torch.equal(sampled_weights(model, original, 3), sampled_weights(original, original, 3))


@pytest.mark.parametrize(
    ("model", "original", "message"),
    [
        (mlp(8, 8), mlp(16, 8), r"its layers\.0\.weight has the shape \(8, 64\), and the original's \(16, 64\)"),
        (mlp(8), mlp(8, 8), r"it lacks layers\.1\.weight, which the original has"),
        (mlp(8, 8, 8), mlp(8, 8), r"it has weights that the original has not, such as layers\.2\.weight"),
        (Wrapper(mlp(8, 8), more=2), mlp(8, 8), "it has weights that the original has not, such as gate"),
        (build("resnet"), build("vit"), "it is of the type resnet, and the original of the type vit"),
    ],
)
def test_another_network_is_named(model, original, message):
    assert re.search(message, network_difference(model, original))


def test_the_sample_is_the_same_weights_of_every_model():
    original, other = trained("vit"), trained("vit")
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    sample, moved = (sampled_weights(m, original, 5) for m in (original, other))
    assert len(sample) == SAMPLE
    torch.testing.assert_close(moved - sample, torch.ones(SAMPLE, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not torch.equal(sampled_weights(original, original, 6), sample)
    everything = torch.cat([p.detach().flatten() for p in original.parameters()]).double()
    assert float(sample.mean()) == pytest.approx(
        float(everything.mean()), abs=4 * float(everything.std()) / SAMPLE**0.5
    )
    assert sampled_weights(mlp(8, 8), mlp(16, 8), 0) is None


def test_weights_are_unchanged_if_they_are_equal_bit_by_bit_outside_the_head():
    original, other = mlp(8, 8), mlp(8, 8)
    with torch.no_grad():
        other.classifier.weight.add_(1.0)
        assert unchanged_share(other, original) == 1
        other.layers[0].weight.add_(1e-4)
    moved = other.layers[0].weight.numel()
    total = sum(p.numel() for n, p in original.named_parameters() if not n.startswith("classifier"))
    assert unchanged_share(other, original) == pytest.approx(1 - moved / total)


def adapted(rank, seed=0):
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = trained("vit")
    names = [n for n, m in model.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    return peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=names, init_lora_weights=False))


def test_of_an_original_that_was_trained_as_an_adapter_the_adapter_counts():
    original = adapted(2)
    for other in (adapted(2, seed=1), adapted(3), adapted(2).merge_and_unload()):
        assert network_difference(other, original) == ""
        assert unchanged_share(other, original) == 0
    assert unchanged_share(adapted(2), original) == 1
    moved = sampled_weights(adapted(2, seed=1), original, 0) - sampled_weights(original, original, 0)
    assert (moved != 0).double().mean() > 0.99
    assert sampled_weights(adapted(3), original, 0) is None


def test_distance_from_the_original_is_a_share_of_that_of_retrained_models():
    original, near, far, other = (torch.tensor([x, 0.0]) for x in (1.0, 2.0, 5.0, 3.0))
    assert distance_share(near, original, [far, other]) == pytest.approx(1 / 3, abs=1e-4)
    assert distance_share(original, original, [far]) == 0.0
    assert distance_share(near, original, [far, None]) == pytest.approx(1 / 4)
    assert distance_share(None, original, [far]) is None
    assert distance_share(near, original, []) is None
    assert distance_share(near, original, [original]) is None

"""The pixel MLP behaves as a model of transformers does."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForImageClassification

from hf_unlearn.models.pixel_mlp import PixelMLPConfig, PixelMLPForImageClassification
from hf_unlearn.models.structure import find_head


def test_logits_are_those_of_the_layers_and_the_size_is_the_papers(tmp_path):
    model = PixelMLPForImageClassification(PixelMLPConfig(num_labels=10)).eval()
    assert sum(p.numel() for p in model.parameters()) == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    x = torch.randn(3, 3, 28, 28)
    expected = x.mean(1).flatten(1)
    for layer in model.layers:
        expected = layer(expected).clamp_min(0)
    expected = model.classifier(expected)
    out = model(x, labels=torch.tensor([1, 2, 3]))
    assert torch.allclose(out.logits, expected, atol=1e-6)
    assert out.loss.item() == pytest.approx(F.cross_entropy(expected, torch.tensor([1, 2, 3])).item(), rel=1e-5)
    assert find_head(model) == "classifier"


def test_it_is_saved_and_loaded_by_the_auto_classes(tmp_path):
    model = PixelMLPForImageClassification(PixelMLPConfig(num_labels=4, image_size=8, hidden_sizes=[5])).eval()
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).hidden_sizes == [5]
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x).logits, model(x).logits)

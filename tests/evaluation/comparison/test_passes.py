"""Passes are rows through the body, counted once however the model is built."""

import pytest
import torch
import transformers

from hf_unlearn.evaluation.comparison.passes import counted_passes
from hf_unlearn.models.forward import model_inputs
from tests.support.models import trained
from tests.support.runs import forget_batch


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "bert", "resnet", "swin"])
def test_rows_count_once_with_and_without_a_gradient(arch):
    model, inputs = trained(arch), model_inputs(forget_batch(arch)["forget"])
    with counted_passes() as passes:
        model(**inputs)
        with torch.no_grad():
            model(**inputs)
            model(**inputs)
    assert (passes.trained, passes.read) == (8, 16)
    assert passes.total == pytest.approx(8 + 16 / 3)
    model(**inputs)
    assert passes.trained == 8


def test_a_frozen_body_is_only_read():
    model, inputs = trained("vit"), model_inputs(forget_batch("vit")["forget"])
    model.base_model.requires_grad_(False)
    with counted_passes() as passes:
        model(**inputs).logits.sum().backward()
    assert (passes.trained, passes.read) == (0, 8)


def test_a_row_counts_once_where_a_body_holds_another():
    model = transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(
            image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )
    with counted_passes() as passes:
        model(torch.zeros(2, 3, 28, 28))
    assert (passes.trained, passes.read) == (2, 0)

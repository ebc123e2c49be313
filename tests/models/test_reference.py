"""The outputs of the original: on the forget set, and on any input."""

import pytest
import torch

from hf_unlearn import MarginalInformation
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.models.forward import continuous_input, model_inputs
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.reference import FrozenOriginal, Reference, build_reference, forgotten_classes
from tests.models.support import logits, patched
from tests.support.data import data_for, processing_class
from tests.support.models import build, changed, state, trained
from tests.support.runs import forget_batch


@pytest.mark.parametrize("arch", ["vit", "bert", "resnet"])
def test_the_frozen_base_is_the_reference(tmp_path, arch):
    trainer = patched(arch, tmp_path, MarginalInformation(utility="kl"))
    trainer.train()
    inputs = model_inputs(forget_batch(arch)["forget"])
    frozen = FrozenOriginal(trainer.model, trainer.patch)
    assert frozen.model is trainer.model
    assert torch.equal(frozen.logits(inputs), logits(trained(arch), arch))
    assert trainer.model.training or not torch.equal(logits(trainer.model, arch), logits(trained(arch), arch))


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_one_pass_over_the_forget_set_equals_one_batch(arch):
    model, rows = trained(arch), data_for(arch, 11)
    processor = Processor(model, processing_class(arch))
    found = build_reference(model, PreparedRows(rows, processor), processor, batch_size=4)
    batch = processor.collate(list(rows))
    x, mask = continuous_input(model, model_inputs(batch))
    values = x[mask.expand_as(x) > 0]
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.labels, batch["labels"])
    assert (found.input_min, found.input_max) == (values.min().item(), values.max().item())
    assert found.input_std == pytest.approx(values.double().std(correction=0).item(), rel=1e-5)


def test_a_model_that_is_broken_already_is_refused():
    model = build("vit")
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    processor = Processor(model)
    with pytest.raises(ValueError, match="NaN or infinite logits on the forget set before anything was changed"):
        build_reference(model, PreparedRows(data_for("vit", 3), processor), processor, batch_size=2)


def test_a_sample_is_remembered_by_its_prediction_and_a_class_by_any_of_its_samples():
    original = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 0, 5]])
    now = torch.tensor([[0.0, 1, 3], [0, 2, 1]])
    index = torch.tensor([2, 0])
    assert Reference(original, None).remembered(now, index).tolist() == [True, False]
    assert Reference(original, None, (1, 2)).remembered(now, index).tolist() == [True, True]
    assert Reference(original, None, (0,)).remembered(now, index).tolist() == [False, False]


def test_classes_without_labels_are_those_that_are_predicted_often():
    logits = torch.eye(3)[[0] * 94 + [1] * 5 + [2]]
    assert forgotten_classes(Reference(logits, None)) == (0, 1)
    assert forgotten_classes(Reference(logits, torch.tensor([2] * 100))) == (2,)


def test_the_frozen_original_stays_when_the_model_moves():
    model = build("resnet").train()
    inputs = model_inputs(forget_batch("resnet")["forget"])
    frozen, before = FrozenOriginal(model), state(model)
    expected = frozen.logits(inputs)
    with torch.no_grad():
        model.classifier[1].bias.add_(1.0)
    assert torch.equal(frozen.logits(inputs), expected)
    assert changed(before, state(model)) == {"classifier.1.bias"}
    assert not any(p.requires_grad for p in frozen.model.parameters())

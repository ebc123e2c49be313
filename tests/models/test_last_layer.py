"""Passes in which only the last layer may have moved: the same logits as of the whole model, and no stale ones."""

import copy
from contextlib import contextmanager

import pytest
import torch

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.models.last_layer import LastLayerPasses
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.reference import build_reference
from hf_unlearn.models.trainable import restrict, updated_names
from tests.support.data import data_for, processing_class
from tests.support.models import trained


@contextmanager
def rows_read(model):
    """Count the rows that go through the body of `model`."""
    counts = [0]
    handle = model.base_model.register_forward_hook(
        lambda _m, args, kwargs, _o: counts.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    yield lambda: sum(counts)
    handle.remove()


@pytest.fixture(params=["vit", "bert"])
def parts(request):
    model, rows = copy.deepcopy(trained(request.param)).eval(), data_for(request.param, 20)
    restrict(model, updated_names(model, "head"))
    return model, rows, Processor(model, processing_class(request.param))


def passes_give(passes, model, rows, processor):
    found, wanted = passes.predict("a", model, rows, processor, 8), predict(model, rows, processor, 8)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_a_moved_last_layer_gives_the_logits_of_the_whole_model_bit_for_bit(parts):
    model, rows, processor = parts
    passes = LastLayerPasses()
    passes_give(passes, *parts)
    with torch.no_grad():
        model.classifier.weight.mul_(1.5)
    with rows_read(model) as count:
        passes.predict("a", model, rows, processor, 8)
        assert count() == 0
    passes_give(passes, *parts)


@pytest.mark.parametrize("how", ["in place", "another tensor", "loaded"])
def test_a_written_body_is_read_again(parts, how):
    model, passes = parts[0], LastLayerPasses()
    passes_give(passes, *parts)
    name, parameter = next((n, p) for n, p in model.named_parameters() if "layernorm" in n.lower())
    with torch.no_grad():
        if how == "in place":
            parameter.mul_(0.5)
        elif how == "another tensor":
            parameter.data = parameter.data * 0.5
        else:
            model.load_state_dict({**model.state_dict(), name: parameter * 0.5})
    passes_give(passes, *parts)


def test_features_are_kept_only_while_nothing_but_the_last_layer_can_move(parts):
    model, rows, processor = parts
    next(iter(model.base_model.parameters())).requires_grad_()
    passes = LastLayerPasses()
    for _ in range(2):
        with rows_read(model) as count:
            passes.predict("a", model, rows, processor, 8)
            assert count() == len(rows)


def test_outputs_that_are_changed_behind_the_last_layer_are_read_each_time(parts):
    model, passes = parts[0], LastLayerPasses()
    model.register_forward_hook(lambda _m, _i, out: setattr(out, "logits", out.logits * 2))
    passes_give(passes, *parts)
    passes_give(passes, *parts)


def test_the_rows_that_the_reference_read_are_not_read_again(parts):
    model, data, processor = parts
    rows, passes = PreparedRows(data, processor), LastLayerPasses()
    assert passes.may_keep("forget", model, rows)
    reference = build_reference(model, rows, processor, 8, passes=passes)
    with rows_read(model) as count:
        logits, labels = passes.predict("forget", model, rows, processor, 8)
        assert count() == 0
    assert torch.equal(logits, reference.logits)
    assert torch.equal(labels, reference.labels)


def test_a_set_whose_features_do_not_give_the_logits_is_not_tried_again(parts):
    model, data, processor = parts
    model.register_forward_hook(lambda _m, _i, out: setattr(out, "logits", out.logits * 2))
    passes = LastLayerPasses()
    passes.predict("a", model, data, processor, 8)
    assert not passes.may_keep("a", model, data)
    assert passes.may_keep("b", model, data)
    model.base_model.requires_grad_()
    assert not passes.may_keep("b", model, data)

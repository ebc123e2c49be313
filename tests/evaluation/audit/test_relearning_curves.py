"""At which rate an audit teaches a class again, and from which rows."""

import copy

import pytest
import torch

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.evaluation.audit.model_outputs import run_model
from hf_unlearn.evaluation.audit.relearning_curves import DRAWS, MOST, SHARE, relearning_curves, relearning_rate
from hf_unlearn.models.processor import Processor
from tests.support.data import processing_class
from tests.support.models import build, trained

from .support import audited_sets


def moved(length):
    """The original with every weight moved by `length`."""
    model = copy.deepcopy(trained("vit"))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(length)
    return model


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, MOST),
        ({"unlearned": 1e-4}, MOST),  # the judged model has no say
        ({"unlearned": 1e-4, "retrained[0]": 1e-3}, SHARE * 1e-3),
        ({"retrained[0]": 1e-3, "retrained[1]": 1e-4}, SHARE * 5.5e-4),
        ({"retrained[0]": 0.5}, MOST),  # as far as independent trainings from random weights
    ],
)
def test_a_step_is_a_share_of_the_way_that_training_anew_took(others, expected):
    models = {name: moved(length) for name, length in others.items()}
    assert relearning_rate(trained("vit"), models, seed=0) == pytest.approx(expected, rel=1e-3)


def test_another_network_has_no_way():
    assert relearning_rate(trained("vit"), {"retrained[0]": build("resnet")}, seed=0) == MOST


def test_curves_start_with_what_is_known_and_end_when_the_class_is_back():
    processor = Processor(trained("vit"), processing_class("vit"))
    sets = {name: PreparedRows(rows, processor) for name, rows in audited_sets().items()}
    model = trained("vit")
    outputs = run_model(model, sets, processor, name="vit")["test"]
    gone = outputs.labels == 1
    curves = relearning_curves(model, sets, processor, outputs, gone, 0, MOST)
    assert len(curves) == DRAWS
    assert all(curve == [(0, pytest.approx(outputs.right[gone].float().mean().item()))] for curve in curves)
    fresh = relearning_curves(build("vit"), sets, processor, outputs, gone, 0, MOST)
    assert any(len(curve) > 1 for curve in fresh)
    assert relearning_curves(model, sets, processor, outputs, torch.zeros_like(gone), 0, MOST) == []

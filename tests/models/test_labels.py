"""What a head is for, the names of its classes, and the number of a row's label."""

import numpy as np
import pytest
import torch
from transformers import BertConfig

from hf_unlearn.models.labels import check_head, class_number, head_names, is_missing
from hf_unlearn.models.processor import Processor
from tests.support.data import pixel_data
from tests.support.models import build

NAMES = {"ant": 0, "bee": 1}


def config(**changes):
    out = BertConfig()
    for name, value in changes.items():
        setattr(out, name, value)
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {0: "ant", 1: "bee"}, "label2id": NAMES},
        {"id2label": {0: "ant", 1: "bee"}, "label2id": None},  # what `BertConfig(id2label=...)` gives
        {"id2label": {0: "ant", 1: "bee"}},  # beside the generic names of a new configuration
        {"label2id": NAMES},
        {"label2id": {"ant": "0", "bee": "1"}},
    ],
)
def test_names_are_found_in_either_table(changes):
    assert head_names(config(**changes)) == NAMES


def test_tables_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"`label2id` and `id2label`.*'ant' is 1 in the first and 0 in"):
        head_names(config(id2label={0: "ant", 1: "bee"}, label2id={"bee": 0, "ant": 1}))
    twice = config(id2label={0: "crane", 1: "crane"}, label2id={"crane": 1})
    assert head_names(twice) == {"crane": 1}  # as in ImageNet, where two classes have one name


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"problem_type": "multi_label_classification"},
            "`problem_type='multi_label_classification'`, a multi-label head",
        ),
        ({"problem_type": "regression"}, "regression head.*column 'score'"),
        ({"num_labels": 1}, "`num_labels=1` and `problem_type=None`, a regression head"),
    ],
)
def test_heads_without_one_class_for_each_row_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        check_head(config(**changes), "score")
    check_head(config(problem_type="single_label_classification"), "score")
    check_head(config(), "score")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (1.0, 1),
        (True, 1),
        (np.int8(1), 1),
        (np.float32(1), 1),
        (torch.tensor(1), 1),
        ("bee", 1),
        ("Bee", 1),
        ("1", 1),
    ],
)
def test_a_class_is_given_by_number_or_name(value, expected):
    assert class_number(value, "label", NAMES, 2) == expected


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (0.9, "a label in column 'label' is no whole number"),
        (np.float64(1.5), "is no whole number"),
        (-1, "a label in column 'label' is outside.*marks a missing label"),
        (-100, "outside.*marks a missing label"),
        (2, r"outside the model's 2 classes \(0..1\)\.$"),
        ("cow", "a label in column 'label' is not in the model's `label2id`"),
        ("2", "a label in column 'label' is not in"),
        ([0, 1], "column 'label' holds lists"),
        (np.array([0.0, 1.0]), "multi-label"),
        (torch.tensor([1.0]), "multi-label"),
    ],
)
def test_what_is_no_class_is_refused(value, match):
    with pytest.raises(ValueError, match=match):
        class_number(value, "label", NAMES, 2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, True),
        (float("nan"), True),
        (np.float32("nan"), True),
        (torch.tensor(float("nan")), True),
        (0, False),
        ("nan", False),
        ([None], False),
        (torch.tensor([1, 2]), False),
    ],
)
def test_missing_labels(value, expected):
    assert is_missing(value) is expected
    if expected:
        row = {"pixel_values": pixel_data(1)[0]["pixel_values"], "label": value}
        assert "labels" not in Processor(build("vit"))(row)

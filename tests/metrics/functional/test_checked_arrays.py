"""What the measures read: every kind of array becomes the same values, and what is no such column is named."""

import enum
import math

import numpy as np
import pytest
import torch

from hf_unlearn.metrics.functional.checked_arrays import (
    class_ids,
    group_codes,
    log_probabilities,
    outputs_by_set,
    rows_by_set,
    same_length,
    scalars,
    to_numpy,
)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda x: np.array(x, np.uint8)])
def test_class_ids_of_every_kind_are_int64(kind):
    found = class_ids(kind([2, 0, 1]), "x")
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 1]


def test_groups_are_sorted_numbers_before_text_and_coded_by_position():
    names, codes = group_codes(["b", 2, "a", 1, 2], "x")
    assert names == [1, 2, "a", "b"]
    assert codes.tolist() == [3, 1, 2, 0, 1]
    assert group_codes(torch.tensor([1, 0]), "x")[0] == group_codes([np.int64(1), 0], "x")[0] == [0, 1]
    with pytest.raises(ValueError, match="`x` has 2 values for 3 samples"):
        group_codes([0, 1], "x", rows=3)
    with pytest.raises(ValueError, match="`x` is empty"):
        group_codes([], "x")


def test_values_that_cannot_be_compared_form_groups_too():
    color = enum.Enum("Color", ["red", "blue"])
    names, codes = group_codes([color.red, color.blue, color.red], "x")
    assert names == [color.blue, color.red]
    assert codes.tolist() == [1, 0, 1]
    assert group_codes([(1, 2), 3], "x")[1].tolist() == [0, 1]


def test_log_probabilities_are_normalized_and_keep_log_probabilities():
    logits = np.random.default_rng(0).normal(0, 5, (20, 4))
    found = log_probabilities(logits, "x")
    assert found.dtype == torch.float64
    expected = [[z - math.log(sum(math.exp(v) for v in row)) for z in row] for row in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(log_probabilities(found, "x"), found, rtol=1e-12, atol=1e-15)
    assert log_probabilities([[0.0, -np.inf]], "x").tolist() == [[0.0, -np.inf]]


def test_outputs_are_divided_by_set():
    logits, sets = np.random.default_rng(0).normal(size=(5, 3)), ["test", "forget", "test", "retain", "forget"]
    log_p = log_probabilities(logits, "x")
    retain, forget = outputs_by_set(logits, [0, 1, 2, 0, 1], sets, ("retain", "forget"))
    assert torch.equal(retain[0], log_p[[3]])
    assert torch.equal(forget[0], log_p[[1, 4]])
    assert (retain[1].tolist(), forget[1].tolist()) == ([0], [1, 1])
    ((_, labels),) = outputs_by_set(logits, None, sets, ("test",))
    assert labels is None
    rows = rows_by_set(sets)
    assert {name: r.tolist() for name, r in rows.items()} == {"forget": [1, 4], "retain": [3], "test": [0, 2]}


def test_values_of_every_library_become_python_or_numpy():
    assert scalars(torch.tensor([1, 2])) == scalars(np.array([1, 2])) == scalars([np.int64(1), 2]) == [1, 2]
    half = torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True)
    assert to_numpy(half, "x").dtype == np.float32
    with pytest.raises(ValueError, match="`second` has 3 entries and `first` 2"):
        same_length(first=[1, 2], second=[1, 2, 3])

"""The outcome of a run, and the form in which others read it."""

import json

import pytest

from hf_unlearn.training.outcome import Outcome


def test_an_outcome_is_ok_unless_it_warns():
    assert Outcome().ok
    assert not Outcome(warnings=["the target was not reached"]).ok


@pytest.mark.parametrize(("moved", "published"), [(0.123456, 0.1), (0.00987, 0.01), (0.0, 0.0), (1.0, 1.0)])
def test_others_read_the_movement_of_outputs_with_one_digit(moved, published):
    """All digits of a mean over few rows would reveal which rows these were."""
    outcome = Outcome(outputs_moved=moved, path=[{"step": 0, "forget": 1.0}])
    read = json.loads(json.dumps(outcome.as_dict()))
    assert read["outputs_moved"] == published
    assert outcome.outputs_moved == moved
    assert {k: v for k, v in read.items() if k != "outputs_moved"} == {
        k: v for k, v in vars(outcome).items() if k != "outputs_moved"
    }

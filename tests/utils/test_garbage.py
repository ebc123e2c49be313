"""What exists before a training stays out of garbage collection during it, and only then."""

import gc

import pytest

from hf_unlearn.utils.garbage import quick_collection


def test_objects_are_frozen_inside_and_not_behind_even_after_an_error():
    found = []

    @quick_collection()
    def fail():
        found.append(gc.get_freeze_count())
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert gc.get_freeze_count() == 0
    assert min(found) > 10_000

"""What exists before a training stays out of garbage collection during it, and only then."""

import gc

import pytest

from hf_unlearn.utils.garbage import quick_collection


@pytest.fixture
def nothing_frozen():
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.freeze()  # as conftest.py leaves it


@pytest.mark.usefixtures("nothing_frozen")
def test_objects_are_frozen_inside_and_not_behind_even_after_an_error():
    found = []

    @quick_collection()
    def fail():
        found.append(gc.get_freeze_count())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert found[0] > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_frozen")
def test_what_a_program_froze_itself_stays_frozen_and_nothing_more_is():
    gc.freeze()
    frozen = gc.get_freeze_count()
    later = [[] for _ in range(1000)]
    with quick_collection():
        assert gc.get_freeze_count() <= frozen
    assert frozen - 1000 < gc.get_freeze_count() <= frozen
    assert later

"""Requests wait in a private file, the most urgent first."""

import stat

import pytest

from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FOLDER
from hf_unlearn.shards.deletion_queue import QUEUE, DeletionQueue
from tests.support.data import text_data


def queue_in(folder):
    (folder / PRIVATE_FOLDER).mkdir(parents=True, exist_ok=True)
    return DeletionQueue(folder)


def test_requests_wait_in_the_order_of_their_deadlines(tmp_path):
    queue = queue_in(tmp_path)
    queue.add({"forget_column": "user", "forget_values": ["late"]}, "2031-05-01")
    queue.add({"forget_column": "user", "forget_values": ["never"]})
    queue.add({"forget_column": "user", "forget_values": ["soon"]}, "2030-01-31")
    again = DeletionQueue(tmp_path)
    assert [r.named["forget_values"][0] for r in again.waiting()] == ["soon", "late", "never"]
    assert [r.named["forget_values"][0] for r in again.waiting("2030-12-31")] == ["soon"]
    assert "soon" not in repr(again.waiting()) + again.waiting()[0].words()
    assert stat.S_IMODE((tmp_path / PRIVATE_FOLDER / QUEUE).stat().st_mode) == 0o600


def test_a_request_selects_what_it_names(tmp_path):
    queue = queue_in(tmp_path)
    queue.add({"forget_column": "group", "forget_values": ["1"]})
    rows = text_data(20)
    assert queue.waiting()[0].request().mask(rows).tolist() == [g == 1 for g in rows["group"]]


def test_what_was_done_leaves_and_the_rest_goes_on_in_the_next_version(tmp_path):
    queue = queue_in(tmp_path / "v1")
    queue.add({"forget_class": ["1"]}, "2030-01-31")
    queue.add({"forget_class": ["2"]})
    queue_in(tmp_path / "v2")
    queue.carry_over(tmp_path / "v2", queue.waiting("2030-01-31"))
    assert [r.named for r in DeletionQueue(tmp_path / "v2").waiting()] == [{"forget_class": ["2"]}]
    assert len(DeletionQueue(tmp_path / "v1").waiting()) == 2  # no version is changed


def test_a_wrong_day_an_empty_request_and_a_damaged_file_are_named(tmp_path):
    queue = queue_in(tmp_path)
    with pytest.raises(ValueError, match=r"`deadline='31\.01\.2030'` is no day"):
        queue.add({"forget_class": ["1"]}, "31.01.2030")
    with pytest.raises(ValueError, match="names nothing to forget"):
        queue.add({})
    (tmp_path / PRIVATE_FOLDER / QUEUE).write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"queue\.json is damaged"):
        DeletionQueue(tmp_path)

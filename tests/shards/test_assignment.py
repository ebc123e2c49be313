"""Rows go to shards by a keyed hash of their group, and nothing else moves them."""

import hmac

import pytest

from hf_unlearn.hub.receipt.row_digest import row_digest
from hf_unlearn.shards.assignment import assign, balance, group_digests, keyed, row_ids
from tests.shards.support import KEY, OWNERS, rows_for
from tests.support.data import text_data


def test_a_row_goes_where_the_keyed_hash_of_its_group_says():
    rows = rows_for("bert", 48)
    found = assign(rows, KEY, shards=4, slices=3, group_column="owner")
    names = row_ids(rows, KEY)
    for number, row in enumerate(rows):
        group = row_digest({"group": row["owner"]})
        shard, part = (
            int.from_bytes(hmac.digest(KEY, purpose + b"\0" + group, "sha256")[:8], "big") % n
            for purpose, n in ((b"shard", 4), (b"slice", 3))
        )
        assert names[number] in found.ids[shard][part]
        assert found.places[names[number]] == number
    assert sum(found.sizes()) == 48
    assert sorted(n for s in range(4) for n in found.rows_of(s)) == list(range(48))


def test_removing_or_adding_rows_moves_no_other_row_and_no_order():
    rows = rows_for("bert", 60)
    before = assign(rows, KEY, 4, 2, "owner").ids
    for kept in (range(7, 60), [i for i in range(60) if i % 5], range(59, 19, -1)):
        some = rows.select(kept)
        gone = set(row_ids(rows, KEY)) - set(row_ids(some, KEY))
        assert assign(some, KEY, 4, 2, "owner").ids == [
            [[n for n in part if n not in gone] for part in shard] for shard in before
        ]


def test_another_key_is_another_assignment_and_ids_tell_nothing_without_it():
    rows = rows_for("bert", 24)
    other = bytes(32)
    assert assign(rows, KEY, 4, 2).ids != assign(rows, other, 4, 2).ids
    assert not set(row_ids(rows, KEY)) & set(row_ids(rows, other))
    assert keyed(KEY, "a", b"b") != keyed(KEY, "ab")


def test_equal_rows_are_told_apart_and_without_a_column_each_row_is_its_own_group():
    rows = text_data(6).select([0, 0, 1, 0])
    assert len(set(row_ids(rows, KEY))) == 4
    assert sum(assign(rows, KEY, 2, 1).sizes()) == 4


def test_owners_stay_together():
    found = assign(rows_for("bert", 72), KEY, 3, 2, "owner")
    for owner in range(OWNERS):
        own = {n for n, place in found.places.items() if place % OWNERS == owner}
        assert sum(bool(own & set(part)) for shard in found.ids for part in shard) == 1


def test_a_column_that_cannot_keep_rows_together_is_named_with_the_row():
    rows = text_data(4)
    with pytest.raises(ValueError, match=r"`group_column='owner'` is not in the data set: it has text, label, group"):
        group_digests(rows, "owner")
    for values, message in (
        (["a", None, "b", "c"], "row 1 has no value"),
        ([0.5, 1.5, 2.5, 3.5], "row 0 holds a float"),
    ):
        with pytest.raises(ValueError, match=message):
            group_digests(rows.add_column("owner", values), "owner")


def test_the_balance_is_said():
    assert balance([3, 5, 4]) == "12 rows in 3 shards of 3 to 5."
    assert balance([3, 0, 4]) == "7 rows in 3 shards of 0 to 4. 1 have none, by chance, and no say."

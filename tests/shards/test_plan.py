"""What a request costs is known before anything is trained."""

import pytest

from hf_unlearn.data.forget_request import ForgetRequest
from hf_unlearn.shards.plan import differences, plan_deletion, plan_version
from hf_unlearn.shards.version import Version
from tests.shards.support import OWNERS, rows_for, shared, trainer

pytestmark = pytest.mark.xdist_group("shared shards")


def of(*owners):
    return ForgetRequest(column="owner", values=list(owners))


def test_only_the_stages_behind_the_row_are_trained_again(tmp_path):
    folder, _, rows = shared()
    version = Version.load(folder)
    for number, shard in enumerate(version.ledger.ids):
        for part, ids in enumerate(shard):
            if not ids:
                continue
            owner = rows[version.find_rows(rows)[1].places[ids[0]]]["owner"]
            plan = trainer().plan_to_forget(folder, rows, of(owner))
            assert [(w.number, w.start) for w in plan.work] == [(number, part)]
            assert plan.steps == plan.work[0].steps_left < plan.all_steps
            assert plan.seconds > 0
            assert f"{len(plan.rows)} rows in 1 of 3 shards" in plan.sentence()


def test_several_users_of_one_shard_cost_one_training_of_it():
    folder, _, rows = shared()
    version = Version.load(folder)
    rows, found = version.find_rows(rows)
    by_shard = {}
    for owner in range(OWNERS):
        plan = plan_deletion(version, rows, found, of(f"u{owner}"), False)
        by_shard.setdefault(plan.work[0].number, []).append((f"u{owner}", plan.steps))
    number, owners = max(by_shard.items(), key=lambda item: len(item[1]))
    together = plan_deletion(version, rows, found, of(*(name for name, _ in owners[:-1])), False)
    assert [w.number for w in together.work] == [number]
    assert together.steps < sum(steps for _, steps in owners[:-1])


def test_nothing_changes_without_a_change():
    version = Version.load(shared()[0])
    plan = plan_version(version, version.ledger.ids, [])
    assert plan.work == []
    assert plan.steps == 0
    assert plan.all_steps > 0


def test_differences_between_rows_and_ledger_are_found():
    folder, _, rows = shared()
    version = Version.load(folder)
    assert differences(version, version.find_rows(rows)[1]) == ([], [])
    lost, extra = differences(version, version.find_rows(rows.select(range(60)))[1])
    assert (len(lost), extra) == (12, [])
    more = rows_for("bert", 80)
    assert len(differences(version, version.find_rows(more)[1])[1]) > 0
    with pytest.raises(ValueError, match="were not trained on"):
        plan_deletion(version, *version.find_rows(more), of("u1"), False)

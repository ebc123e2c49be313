"""Deletion is exact: the bits are those of a training that never saw the rows."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import concatenate_datasets

from hf_unlearn.data.forget_request import ForgetRequest
from hf_unlearn.hub.layout import RECEIPT
from hf_unlearn.hub.receipt.sealing import verify_folder
from hf_unlearn.models.pretrained import load_classifier
from hf_unlearn.shards.deletion_queue import DeletionQueue
from hf_unlearn.shards.settings import ShardSettings
from hf_unlearn.shards.trainer import ShardedTrainer
from hf_unlearn.shards.version import Version, new_version, write_ledger
from tests.shards.support import KEY, OWNERS, SMALL, rows_for, shared, trainer, weights
from tests.support.fresh_processes import exit_codes, start

pytestmark = pytest.mark.xdist_group("shared shards")


def of(*owners):
    return ForgetRequest(column="owner", values=list(owners))


def without(rows, *owners):
    return rows.filter(lambda owner: owner not in owners, input_columns="owner")


def trained_anew(base, rows, folder, **more):
    trainer().train(base, rows, folder, settings=ShardSettings(**{**SMALL, **more}), key=KEY)
    return weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["bert", pytest.param("vit", marks=pytest.mark.slow)])
def test_a_deletion_gives_the_bits_of_a_training_without_the_rows(arch, tmp_path):
    folder, base, rows = shared(arch)
    before = weights(folder)
    trainer().forget(folder, rows, of("u3"), tmp_path / "v2")
    assert weights(tmp_path / "v2") == trained_anew(base, without(rows, "u3"), tmp_path / "scratch")
    changed = [a != b for a, b in zip(before, weights(tmp_path / "v2"), strict=True)]
    assert sum(changed) == 1
    assert weights(folder) == before
    assert not verify_folder(tmp_path / "v2")
    assert load_classifier(str(tmp_path / "v2")).sharding.previous


@pytest.mark.slow
def test_the_order_of_deletions_does_not_matter_and_together_is_as_one_by_one(tmp_path):
    folder, _, rows = shared()
    for name, order in (("a", ["u1", "u7", "u4"]), ("b", ["u4", "u1", "u7"])):
        last = folder
        for number, owner in enumerate(order):
            trainer().forget(last, rows, of(owner), tmp_path / f"{name}{number}")
            last = tmp_path / f"{name}{number}"
    trainer().forget(folder, rows, of("u1", "u4", "u7"), tmp_path / "once")
    assert weights(tmp_path / "a2") == weights(tmp_path / "b2") == weights(tmp_path / "once")
    ledger = Version.load(tmp_path / "a2").ledger
    assert ledger.ancestors == [str(p.resolve()) for p in (folder, tmp_path / "a0", tmp_path / "a1")]


@pytest.mark.slow
def test_added_rows_move_no_other_and_deleting_them_gives_the_former_bits(tmp_path):
    folder, base, rows = shared()
    new = rows_for("bert", 12, seed=5)
    new = new.remove_columns("owner").add_column("owner", ["new"] * 12)
    trainer().add(folder, rows, new, tmp_path / "v2")
    together = concatenate_datasets([rows, new])
    assert weights(tmp_path / "v2") == trained_anew(base, together, tmp_path / "scratch")
    trainer().forget(tmp_path / "v2", together, of("new"), tmp_path / "v3")
    assert weights(tmp_path / "v3") == weights(folder)
    with pytest.raises(ValueError, match="12 rows that an earlier request deleted"):
        trainer().add(tmp_path / "v3", rows, new, tmp_path / "v4")
    with pytest.raises(ValueError, match="no row that the shards do not know"):
        trainer().add(folder, rows, rows.select(range(3)), tmp_path / "v4")


@pytest.mark.slow
def test_a_shard_may_lose_all_its_rows_and_the_others_still_answer(tmp_path):
    folder, _, rows = shared()
    version = Version.load(folder)
    found = version.find_rows(rows)[1]
    owners = sorted({rows[n]["owner"] for n in found.rows_of(1)})
    model = trainer().forget(folder, rows, of(*owners), tmp_path / "v2")
    assert model.sharding.present == [0, 2]
    assert model.sharding.weights == [0.5, 0.0, 0.5]
    assert model.classifier.in_features == 2 * 16
    assert not (tmp_path / "v2" / "shard-01").exists()
    rest = [f"u{i}" for i in range(OWNERS) if f"u{i}" not in owners]
    with pytest.raises(ValueError, match="deletes every row"):
        trainer().forget(tmp_path / "v2", rows, of(*rest), tmp_path / "v3")


@pytest.mark.slow
def test_a_shard_may_be_empty_from_the_start(tmp_path):
    _, base, rows = shared()
    rows, many = rows.select(range(24)), {"num_shards": 10, "num_train_epochs": 0.5}
    model = trainer().train(base, rows, tmp_path / "v1", settings=ShardSettings(**{**SMALL, **many}), key=KEY)
    assert 1 < len(model.sharding.present) < 10
    assert sum(model.sharding.weights) == pytest.approx(1.0)
    trainer().forget(tmp_path / "v1", rows, of("u3"), tmp_path / "v2")
    assert weights(tmp_path / "v2") == trained_anew(base, without(rows, "u3"), tmp_path / "scratch", **many)


@pytest.mark.slow
def test_rows_that_are_gone_from_the_data_are_an_error_or_the_request(tmp_path):
    folder, base, rows = shared()
    left = without(rows, "u5")
    with pytest.raises(ValueError, match=r"lacks 6 rows .*`--forget_missing true`"):
        trainer().forget(folder, left, of("u2"), tmp_path / "v2")
    trainer().forget(folder, left, None, tmp_path / "v2", missing=True)
    assert weights(tmp_path / "v2") == trained_anew(base, left, tmp_path / "scratch")
    trainer().forget(tmp_path / "v2", left, of("u2"), tmp_path / "v3")  # and the data set need not hold them any more
    trainer().forget(tmp_path / "v2", rows, of("u2"), tmp_path / "v4")  # but may
    assert weights(tmp_path / "v3") == weights(tmp_path / "v4")


def test_impossible_requests_are_named_before_anything_is_made(tmp_path):
    folder, base, rows = shared()
    trainer().forget(folder, rows, of("u3"), tmp_path / "v2")
    out, more = tmp_path / "out", rows_for("bert", 80)
    cases = [
        (folder, rows, of("u99"), "u99|values"),
        (tmp_path / "v2", rows, of("u3"), "were deleted by an earlier one"),
        (folder, rows, None, "selects no row"),
        (folder, more, of("u3"), "rows that the shards were not trained on"),
        (tmp_path, rows, of("u3"), r"holds no sharding\.json"),
    ]
    for model, data, request, message in cases:
        with pytest.raises(ValueError, match=message):
            trainer().forget(model, data, request, out)
    with pytest.raises(ValueError, match="no version is ever changed"):
        trainer().forget(folder, rows, of("u3"), tmp_path / "v2")
    with pytest.raises(ValueError, match="there are only 12 groups, and each is in one shard"):
        trainer().train(base, rows, out, settings=ShardSettings(**{**SMALL, "num_shards": 40}))
    with pytest.raises(ValueError, match=r"must be a `datasets\.Dataset`"):
        trainer().train(base, {"train": rows}, out)
    with pytest.raises(ValueError, match="`adapted_blocks=9`: the base has 2 blocks"):
        trainer().train(base, rows, out, settings=ShardSettings(**SMALL, adapted_blocks=9))
    with pytest.raises(ValueError, match="`num_processes`"):
        ShardedTrainer(num_processes=0)
    assert [p.name for p in tmp_path.iterdir()] == ["v2"]


@pytest.mark.slow
def test_what_a_killed_run_with_other_settings_left_is_not_taken(tmp_path):
    _, base, rows = shared()
    left = tmp_path / ".v1.partial" / "shard-07"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(b"x")
    trainer().train(base, rows, tmp_path / "v1", settings=ShardSettings(**SMALL), key=KEY)
    assert weights(tmp_path / "v1") == weights(shared()[0])
    assert not (tmp_path / "v1" / "shard-07").exists()


@pytest.mark.slow
def test_what_a_run_that_was_killed_for_another_request_left_is_not_taken(tmp_path):
    folder, base, rows = shared()
    with new_version(tmp_path / "v2", KEY) as left:  # a run for another user, killed after its shard was trained
        pass
    (tmp_path / "v2").rename(left)
    trainer().forget(folder, rows, of("u7"), tmp_path / "other")
    changed = [i for i, (a, b) in enumerate(zip(weights(folder), weights(tmp_path / "other"), strict=True)) if a != b]
    shutil.copytree(tmp_path / "other" / f"shard-{changed[0]:02d}", left / f"shard-{changed[0]:02d}")
    owner = next(
        o for o in map("u{}".format, range(OWNERS))
        if [w.number for w in trainer().plan_to_forget(folder, rows, of(o)).work] != changed
    )  # fmt: skip
    trainer().forget(folder, rows, of(owner), tmp_path / "v2")
    assert weights(tmp_path / "v2") == trained_anew(base, without(rows, owner), tmp_path / "scratch")


def test_a_shard_that_is_damaged_is_not_copied(tmp_path):
    folder, _, rows = shared()
    shutil.copytree(folder, tmp_path / "v1")
    plan = trainer().plan_to_forget(folder, rows, of("u3"))
    other = next(i for i in range(3) if i != plan.work[0].number)
    file = tmp_path / "v1" / f"shard-{other:02d}" / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"has other weights than sharding\.json says"):
        trainer().forget(tmp_path / "v1", rows, of("u3"), tmp_path / "v2")
    assert not (tmp_path / "v2").exists()


@pytest.mark.slow
def test_requests_that_wait_go_on_in_the_next_version(tmp_path):
    folder, _, rows = shared()
    shutil.copytree(folder, tmp_path / "v1")
    DeletionQueue(tmp_path / "v1").add({"forget_class": ["1"]}, "2030-01-31")
    trainer().forget(tmp_path / "v1", rows, of("u3"), tmp_path / "v2")
    assert [r.deadline for r in DeletionQueue(tmp_path / "v2").waiting()] == ["2030-01-31"]


@pytest.mark.slow
def test_other_libraries_than_those_of_the_training_are_named(tmp_path):
    folder, _, rows = shared()
    trainer().forget(folder, rows, of("u3"), tmp_path / "v2")
    version = Version.load(tmp_path / "v2")
    replace(version.sharding, versions={**version.sharding.versions, "torch": "1.0"}).save(tmp_path / "v2")
    with pytest.raises(ValueError, match=r"trained with torch 1\.0 \(here 2\..*would not be exact"):
        trainer().forget(tmp_path / "v2", rows, of("u4"), tmp_path / "v3")


@pytest.mark.slow
def test_a_shard_that_is_trained_from_the_start_has_the_weights_that_it_says(tmp_path):
    folder, _, rows = shared()
    for number, said in enumerate(weights(folder)):
        assert trainer().retrained_weights(folder, rows, number, tmp_path / str(number)) == said


def _forget(folder, rows_seed, target):
    trainer().forget(Path(folder), rows_for("bert", seed=rows_seed), of("u1", "u2", "u3", "u4"), Path(target))


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_the_old_version_and_the_next_run_gives_the_same_bits(tmp_path):
    folder, base, rows = shared()
    expected = trained_anew(base, without(rows, "u1", "u2", "u3", "u4"), tmp_path / "scratch")
    before, killed = weights(folder), 0
    for wait in (0.1, 0.5):  # the first is always too early to be done
        target = tmp_path / f"v{wait}"
        process = start(_forget, str(folder), 0, str(target))
        time.sleep(wait)
        process.kill()
        killed += exit_codes([process])[0] != 0
        assert weights(folder) == before
        assert Version.load(folder).ledger.deleted == []
        if not target.exists():
            trainer().forget(folder, rows, of("u1", "u2", "u3", "u4"), target)
        assert weights(target) == expected
        assert not verify_folder(target)
    assert killed


@pytest.mark.slow
def test_the_receipt_is_chained_and_covers_what_is_published(tmp_path):
    folder, _, rows = shared()
    trainer().forget(folder, rows, of("u3"), tmp_path / "v2", request_id="case-7")
    trainer().forget(tmp_path / "v2", rows, of("u4"), tmp_path / "v3")
    assert (tmp_path / "v3" / RECEIPT).is_file()
    ledger = Version.load(tmp_path / "v3").ledger
    write_ledger(tmp_path / "v3", ledger)
    assert not verify_folder(tmp_path / "v3")

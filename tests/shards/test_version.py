"""Folders of versions: whole or not there, private parts readable by their owner alone."""

import os
import stat

import pytest

from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FOLDER
from hf_unlearn.models.sharded_classifier import SHARDING
from hf_unlearn.shards.version import KEY, LEDGER, Version, copy_file, copy_whole, key_of, new_version
from tests.shards.support import shared

pytestmark = pytest.mark.xdist_group("shared shards")


def test_a_version_appears_whole_and_a_failed_one_not_at_all(tmp_path):
    target, keys = tmp_path / "v1", []

    def killed():
        with new_version(target, None) as folder:
            keys.append(key_of(folder))
            (folder / "half").write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert not target.exists()
    with new_version(target, None) as folder:  # goes on where the first one ended, with its key
        assert [key_of(folder)] == keys
        assert (folder / "half").read_text() == "x"
    assert (target / "half").is_file()
    assert not folder.exists()
    with pytest.raises(ValueError, match="no version is ever changed"):
        new_version(target, keys[0]).__enter__()


def test_what_a_run_of_another_model_left_is_not_taken(tmp_path):
    new_version(tmp_path / "v2", bytes(32)).__enter__()  # and killed
    with pytest.raises(ValueError, match="left by a run of another model"):
        new_version(tmp_path / "v2", b"k" * 32).__enter__()


def test_the_private_part_is_for_its_owner_alone():
    folder = shared()[0]
    private = folder / PRIVATE_FOLDER
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    files = [p for p in private.rglob("*") if p.is_file()]
    assert len(files) > 6
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}


def test_nothing_public_depends_on_the_key_or_names_a_row():
    folder = shared()[0]
    version = Version.load(folder)
    ids = version.ledger.known
    for file in (p for p in folder.rglob("*") if p.is_file() and PRIVATE_FOLDER not in p.parts):
        raw = file.read_bytes()
        assert version.key not in raw
        assert not any(name.encode() in raw for name in ids)


def test_a_version_without_its_private_part_cannot_find_rows(tmp_path):
    copy_whole(shared()[0], tmp_path / "v1")
    assert Version.load(tmp_path / "v1").ledger.group_column == "owner"
    with pytest.raises(ValueError, match=r"lacks the column 'owner'"):
        Version.load(tmp_path / "v1").find_rows(shared()[2].remove_columns("owner"))
    (tmp_path / "v1" / PRIVATE_FOLDER / LEDGER).write_text('{"rows": 1}')
    with pytest.raises(ValueError, match=r"rows\.json is damaged"):
        Version.load(tmp_path / "v1")
    os.unlink(tmp_path / "v1" / PRIVATE_FOLDER / KEY)
    with pytest.raises(ValueError, match="use that folder, and no published copy"):
        Version.load(tmp_path / "v1")
    with pytest.raises(ValueError, match=rf"`model='{tmp_path}'` holds no {SHARDING}"):
        Version.load(tmp_path)


def test_columns_that_came_later_do_not_matter():
    folder, _, rows = shared()
    version = Version.load(folder)
    more = rows.add_column("note", ["x"] * len(rows))
    assert version.find_rows(more)[1].ids == version.ledger.ids


def test_copies_are_whole_and_keep_what_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("old")
    copy_whole(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "file").write_text("new")
    copy_whole(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").read_text() == "old"
    copy_file(tmp_path / "a" / "file", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600

"""Revisions behind an `@`, the commits that they stand for, and what is a folder of this machine."""

import pytest
from huggingface_hub import HfApi

from hf_unlearn.utils.hub_names import file_beside, is_local, pinned, snapshots, split_revision
from tests.support.hub_runs import create_tagged, write


def test_a_revision_follows_an_at_sign_or_is_given(tmp_path):
    assert split_revision("org/name@v1") == ("org/name", "v1")
    assert split_revision("org/name@v1", "v1") == ("org/name", "v1")
    assert split_revision("org/name", "v2") == ("org/name", "v2")
    folder = tmp_path / "my@folder"
    folder.mkdir()
    assert split_revision(str(folder)) == (str(folder), None)


@pytest.mark.parametrize("source", ["org/name@", "@v1"])
def test_half_a_revision_is_refused(source):
    with pytest.raises(ValueError, match=f"`dataset='{source}'`: write `org/name@revision`"):
        split_revision(source, argument="dataset")


def test_two_revisions_are_refused():
    with pytest.raises(ValueError, match="names another revision than `model_revision='v2'`"):
        split_revision("org/name@v1", "v2")


def test_a_name_is_pinned_to_the_commit_that_its_branch_has_now(hub, tmp_path):
    HfApi().create_repo("alice/model")
    first, second = (
        HfApi().upload_file(repo_id="alice/model", path_or_fileobj=text, path_in_repo="x.txt").oid
        for text in (b"1", b"2")
    )
    HfApi().create_branch("alice/model", branch="old", revision=first)
    assert pinned("alice/model") == ("alice/model", second)
    assert pinned("alice/model@old") == ("alice/model", first)
    assert pinned("alice/none@main") == ("alice/none", "main")


def test_folders_and_texts_that_are_no_id_are_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert [is_local(s) for s in ("org/name", "bert-base", "here", "./x", "a/b/c", "/", "")] == [False] * 2 + [True] * 5


def test_snapshots_lie_where_the_hub_library_puts_them(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants, snapshot_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    HfApi().create_repo("alice/model")
    commit = HfApi().upload_file(repo_id="alice/model", path_or_fileobj=b"1", path_in_repo="x.txt").oid
    assert snapshot_download("alice/model") == str(snapshots("alice/model") / commit)


def test_a_tag_stays_pinned_to_its_commit(hub, tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model/config.json", '{"a": 1}')
    commit = create_tagged("alice/m", tmp_path / "model")
    HfApi().create_branch("alice/m", branch="work")
    assert pinned("alice/m@v1") == pinned("alice/m", "work") == pinned("alice/m") == ("alice/m", commit)
    write(tmp_path / "model/config.json", '{"a": 2}')
    HfApi().upload_folder(repo_id="alice/m", folder_path=tmp_path / "model")
    assert pinned("alice/m@v1") == ("alice/m", commit)
    assert pinned("alice/m")[1] != commit
    assert pinned("alice/nothing@v1") == ("alice/nothing", "v1")  # loading it says what is wrong


def test_a_folder_has_no_revisions(tmp_path):
    assert pinned(str(tmp_path)) == (str(tmp_path), None)
    with pytest.raises(
        ValueError, match=r"`dataset_revision='v1'`: `dataset=.* is on this machine and has no revisions"
    ):
        pinned(str(tmp_path), "v1", "dataset")


def test_a_file_beside_a_model_is_found_in_its_folder_or_its_repository(tmp_path, hub):
    (tmp_path / "README.md").write_text("card")
    assert file_beside(str(tmp_path), "README.md") == tmp_path / "README.md"
    assert file_beside(str(tmp_path), "trainer_state.json") is None
    HfApi().create_repo("alice/pets")
    HfApi().upload_file(repo_id="alice/pets", path_in_repo="README.md", path_or_fileobj=b"card")
    assert file_beside("alice/pets", "README.md").read_text() == "card"
    assert file_beside("alice/pets", "trainer_state.json") is None
    assert file_beside("alice/nothing", "README.md") is None
    assert file_beside("alice/pets", "README.md", "no-such-branch") is None

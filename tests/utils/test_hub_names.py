"""Revisions behind an `@`, and the commits that they stand for."""

import pytest
from huggingface_hub import HfApi

from hf_unlearn.utils.hub_names import pinned, split_revision
from tests.support.hub_runs import create_tagged, write


def test_a_revision_is_split_off_behind_an_at_sign(tmp_path, monkeypatch):
    assert split_revision("org/model@v1.0") == ("org/model", "v1.0")
    assert split_revision("org/model@v1", "v1") == ("org/model", "v1")
    assert split_revision("org/model", "v2") == ("org/model", "v2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@home").mkdir()
    assert split_revision("me@home") == ("me@home", None)
    with pytest.raises(ValueError, match=r"`model='org/model@v1'` names another revision than `model_revision='v2'`"):
        split_revision("org/model@v1", "v2")
    with pytest.raises(ValueError, match="write `org/name@revision`"):
        split_revision("org/model@")


def test_a_revision_is_pinned_to_its_commit(hub, tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model/config.json", '{"a": 1}')
    commit = create_tagged("alice/m", tmp_path / "model")
    HfApi().create_branch("alice/m", branch="work")
    assert pinned("alice/m@v1") == pinned("alice/m", "work") == pinned("alice/m") == ("alice/m", commit)
    write(tmp_path / "model/config.json", '{"a": 2}')
    HfApi().upload_folder(repo_id="alice/m", folder_path=tmp_path / "model")
    assert pinned("alice/m@v1") == ("alice/m", commit)
    assert pinned("alice/m")[1] != commit
    assert pinned(str(tmp_path), "v1") == (str(tmp_path), "v1")
    assert pinned("alice/nothing@v1") == ("alice/nothing", "v1")  # loading it says what is wrong

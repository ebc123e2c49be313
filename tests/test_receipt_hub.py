"""A receipt that is checked against what the Hub holds now. The client is the real one, over HTTP."""

import pytest
from huggingface_hub import HfApi, constants

from tests.support.loopback_hub import ALWAYS, Fault
from tests.support.receipts import publish, verify

REPO = "alice/unlearned"


@pytest.fixture
def pushed(hub, tmp_path, monkeypatch):
    """A sealed folder as alice/unlearned, and an empty cache; returns the keys' folder and the commit."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = publish(tmp_path)
    HfApi().create_repo(REPO)
    return tmp_path, HfApi().upload_folder(repo_id=REPO, folder_path=folder).oid


def tamper(branch=None):
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"{}", path_in_repo="config.json", revision=branch)


def test_a_repository_is_verified_at_its_revision_and_the_commit_is_told(pushed, capsys):
    """Through the Hub's cache: links to blobs, the Hub's own `.gitattributes`, branches and commits."""
    keys, commit = pushed
    HfApi().create_branch(REPO, branch="changed")
    tamper("changed")
    assert verify(REPO) == 0
    assert f"{REPO} at commit {commit}." in capsys.readouterr().out
    assert verify(f"{REPO}@main", "--public-key", keys / "key.pem.pub") == 0
    assert verify(f"{REPO}@changed") == 1
    assert "config.json: changed" in capsys.readouterr().out
    assert verify(f"{REPO}@{commit}") == 0
    assert verify(f"{REPO}@other") == 2
    assert verify("alice/none") == 2


@pytest.mark.parametrize("fault", [503, "reset", "offline"])
def test_a_copy_from_before_is_not_taken_for_what_the_hub_holds_now(pushed, hub, fault, monkeypatch, capsys):
    assert verify(REPO) == 0
    tamper()
    if fault == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.faults = [Fault(fault, times=ALWAYS, match=f"GET /api/models/{REPO}")]
    capsys.readouterr()
    assert verify(REPO) == 2
    told = capsys.readouterr()
    assert "`--folder='alice/unlearned'`" in told.err
    assert "All is" not in told.out
    hub.faults = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert verify(REPO) == 1

"""What a push sends, where to, and what it refuses. The client is the real one, over HTTP."""

import json
import shutil

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download, snapshot_download

from hf_unlearn.cli import main
from hf_unlearn.hub.push.push import push_folder
from hf_unlearn.hub.push.retries import PushError
from hf_unlearn.hub.push.run_folder import push_run
from tests.hub.push.support import REPO, put, sent, tree
from tests.support.hub_runs import RUN_FILES, digests, run_folder, write
from tests.support.loopback_hub import ALWAYS, Fault, File
from tests.support.receipts import write_run_receipt


@pytest.mark.parametrize("xet", [False, True])
def test_a_run_becomes_one_commit_of_a_new_private_repository(hub, run, xet, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    before = digests(run)
    assert main(["push", str(run), "--repo", REPO]) == 0
    repository = hub.repository(REPO)
    assert repository.private
    assert [c["title"] for c in repository.commits.values()] == ["initial commit", "Unlearned model"]
    assert tree(hub, REPO) == RUN_FILES
    assert bool(hub.blobs) != xet
    got = digests(snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    local = {name.removeprefix("model/"): content for name, content in before.items()}
    assert all(got[name] == local[name] for name in RUN_FILES if name != "README.md")
    assert digests(run) == before
    assert "private repository alice/unlearned" in capsys.readouterr().out


@pytest.mark.parametrize("xet", [False, True])
def test_files_already_on_the_branch_are_not_sent_again(hub, run, xet, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    first = push_run(run, REPO)
    received, stored = dict(hub.received), {p: p.stat().st_mtime_ns for p in hub.cas.rglob("*.xorb")}
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 0
    assert "there already" in capsys.readouterr().out
    assert (dict(hub.received), {p: p.stat().st_mtime_ns for p in hub.cas.rglob("*.xorb")}) == (received, stored)
    assert hub.repository(REPO).state()["branches"] == {"main": first.commit.oid}
    assert hub.repository(REPO).tags == {"v1": first.commit.oid}


def test_a_new_card_for_the_same_model_is_sent_alone(hub, run):
    push_run(run, REPO)
    write(run / "README.md", "---\nlicense: mit\n---\nBetter words.\n")
    received = dict(hub.received)
    pushed = push_run(run, REPO)
    assert (pushed.revision, pushed.changed, dict(hub.received)) == ("main", True, received)
    assert hub.content(REPO, "README.md").decode().endswith("Better words.\n")


def test_public_only_if_asked_and_a_repository_that_exists_stays_as_it_is(hub, run, original, capsys):
    assert main(["push", str(run), "--repo", REPO, "--public"]) == 0
    assert not hub.repository(REPO).private
    assert main(["push", str(run), "--repo", "alice/original"]) == 0
    assert "public repository alice/original" in capsys.readouterr().out
    assert not hub.repository("alice/original").private


def test_a_repository_with_a_model_gets_a_new_branch_without_the_original_in_its_history(hub, run, original):
    pushed = push_run(run, "alice/original")
    repository = hub.repository("alice/original")
    assert repository.branches == {"main": original, pushed.revision: pushed.commit.oid}
    assert pushed.revision.startswith("unlearned-")
    assert tree(hub, "alice/original", pushed.revision) == RUN_FILES
    commits = HfApi().list_repo_commits("alice/original", revision=pushed.revision)
    assert [c.title for c in commits] == ["Unlearned model", "initial commit"]
    again = push_run(run, "alice/original")
    assert (again.revision, again.changed) == (pushed.revision, False)


def test_another_model_gets_another_branch(hub, tmp_path, original):
    branches = {push_run(run_folder(tmp_path / str(s), seed=s), "alice/original").revision for s in (0, 1)}
    assert len(branches) == 2
    assert {*hub.repository("alice/original").branches} == {"main", *branches}


def test_the_branch_is_named_after_the_request_of_the_receipt(hub, run, original):
    write_run_receipt(run, "gdpr-17")
    assert push_run(run, "alice/original").revision == "unlearned-gdpr-17"


def test_a_pushed_repository_passes_verification_by_its_receipt(hub, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    write(
        run / "model/config.json", json.dumps({"model_type": "vit", "_name_or_path": "/home/alice/vit"})
    )  # is cleaned
    write_run_receipt(run).save(tmp_path / "own.private.json")
    before = digests(run)
    key = str(tmp_path / "key.pem")
    assert main(["receipt", "keygen", "--output", key]) == 0
    assert main(["push", str(run), "--repo", REPO, "--sign-key", key]) == 0
    assert tree(hub, REPO) == sorted([*RUN_FILES, "unlearning_receipt.json", "unlearning_receipt.json.sig"])
    words = ["receipt", "verify", "--public-key", f"{key}.pub", "--private", str(tmp_path / "own.private.json")]
    assert main([*words, "--folder", f"{REPO}@main"]) == 0
    assert digests(run) == before
    other = [CommitOperationAdd("config.json", b'{"model_type": "vit", "id2label": {}}')]
    HfApi().create_commit(REPO, other, commit_message="meddle")
    assert main([*words, "--folder", REPO]) == 1
    assert "config.json: changed" in capsys.readouterr().out
    receipt = json.loads(hub.content(REPO, "unlearning_receipt.json"))
    assert receipt["covers"] is None
    assert not any("private" in name or "report.html" in name for name in receipt["files"])


@pytest.mark.parametrize("known", [True, False])
def test_a_model_that_is_there_is_replaced_only_by_its_full_name(hub, tmp_path, original, known, capsys):
    run = run_folder(tmp_path / "run", original=("Alice/Original", original) if known else None)
    words = ["push", str(run), "--repo", "alice/original"]
    before = hub.repository("alice/original").state()
    assert main([*words, "--revision", "main"]) == 2
    error = capsys.readouterr().err
    assert (
        "is the original" if known else "holds what hf_unlearn did not push, and README.md of it would be lost"
    ) in error
    assert "--overwrite-original alice/original" in error
    assert main([*words, "--overwrite-original", "alice/other"]) == 2
    assert (hub.repository("alice/original").state(), sent(hub)) == (before, [])
    assert main([*words, "--overwrite-original", "alice/original"]) == 0
    assert "removed from the branch: notes.txt, onnx/model.onnx, pytorch_model.bin" in capsys.readouterr().out
    assert tree(hub, "alice/original") == sorted([*RUN_FILES, "LICENSE"])
    assert len(hub.repository("alice/original").commits) == 4


def test_the_branch_that_a_run_started_from_is_the_original_too(hub, tmp_path, original):
    HfApi().create_branch("alice/original", branch="release")
    run = run_folder(tmp_path / "run", original=("alice/original", original))
    with pytest.raises(PushError, match="`revision='release'` of alice/original is the original"):
        push_run(run, "alice/original", revision="release")


def test_a_branch_of_ones_own_is_updated_and_loses_the_old_model(hub, tmp_path, original):
    adapter = run_folder(tmp_path / "adapter", adapter="alice/original")
    push_run(adapter, "alice/original", revision="work")
    pushed = push_run(run_folder(tmp_path / "whole"), "alice/original", revision="work")
    assert pushed.removed == ["adapter_config.json", "adapter_model.safetensors"]
    assert tree(hub, "alice/original", "work") == RUN_FILES


def test_no_branch_starts_from_a_commit_that_holds_the_original(hub, run, capsys):
    put(hub, {"model.safetensors": b"1" * 99, "config.json": b"{}"})
    repository = hub.repository(REPO)
    head = repository.branches["main"]
    repository.commits = {head: {**repository.commits[head], "parent": None}}  # history squashed
    before = repository.state()
    assert main(["push", str(run), "--repo", REPO]) == 2
    assert "first commit, which holds config.json" in capsys.readouterr().err
    assert repository.state() == before


@pytest.mark.slow
def test_a_commit_after_the_check_and_before_the_push_is_kept(hub, run, capsys):
    HfApi().create_repo(REPO)

    def theirs(hub):
        hub.repository(REPO).commit("main", "theirs", {"vocab.txt": File.small(b"theirs")}, [])

    hub.faults[:] = [Fault(theirs, match="GET .*/refs")]
    assert main(["push", str(run), "--repo", REPO]) == 2
    assert "(412); nothing was overwritten" in capsys.readouterr().err
    assert {*hub.repository(REPO).tree()} == {".gitattributes", "vocab.txt"}
    assert push_run(run, REPO).revision.startswith("unlearned-")  # the branch is read again


def test_tags_are_made_and_never_moved(hub, tmp_path, run, capsys):
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1", "--tag", "first"]) == 0
    repository = hub.repository(REPO)
    assert repository.tags == dict.fromkeys(("v1", "first"), repository.branches["main"])
    other = run_folder(tmp_path / "other", seed=1)
    before = repository.state()
    assert main(["push", str(other), "--repo", REPO, "--tag", "v1"]) == 2
    assert "`tag='v1'` is taken" in capsys.readouterr().err
    assert main(["push", str(other), "--repo", REPO, "--revision", "v1"]) == 2
    assert "`revision='v1'` is a tag" in capsys.readouterr().err
    assert repository.state() == before


def test_if_a_tag_fails_the_error_says_where_the_model_is(hub, run, capsys):
    hub.faults[:] = [Fault(400, times=ALWAYS, match="POST .*/tag/")]
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 2
    head = hub.repository(REPO).branches["main"]
    assert f"The model is on 'main' of {REPO}, commit {head[:8]}, but without the tag 'v1'" in capsys.readouterr().err


def test_a_tag_that_somebody_else_makes_during_the_push_is_reported(hub, run, capsys):
    def theirs(hub):
        hub.repository(REPO).tags["v1"] = next(iter(hub.repository(REPO).commits))

    hub.faults[:] = [Fault(theirs, match="POST .*/tag/")]
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 2
    assert "without the tag 'v1': `tag='v1'` is taken" in capsys.readouterr().err


def test_an_adapter_needs_a_base_that_others_find(hub, tmp_path, original, capsys):
    run = run_folder(tmp_path / "run", adapter=str(tmp_path / "base"))
    words = ["push", str(run), "--repo", REPO]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "unknown base" in error
    assert "--base-model org/model" in error
    assert str(tmp_path) not in error
    assert main([*words, "--base-model", "alice/nowhere"]) == 2
    assert "`--base-model`: unknown base: alice/nowhere is not on the Hub" in capsys.readouterr().err
    assert sent(hub) == []
    assert main([*words, "--base-model", "alice/original"]) == 0
    config = json.loads(hub.content(REPO, "adapter_config.json"))
    assert config["base_model_name_or_path"] == "alice/original"
    assert "its base is the original model" in hub.content(REPO, "README.md").decode()
    assert json.loads((run / "model/adapter_config.json").read_text())["base_model_name_or_path"].startswith("/")


def test_an_adapter_is_pinned_to_the_commit_of_its_base(hub, tmp_path, original):
    run = run_folder(tmp_path / "run", adapter="alice/original", original=("alice/original", original))
    push_run(run, REPO)
    assert json.loads(hub.content(REPO, "adapter_config.json"))["revision"] == original


def test_files_that_are_not_on_the_list_are_left_out_and_named(hub, tmp_path, run, caplog):
    folder = tmp_path / "folder"
    shutil.copytree(run / "model", folder)
    write(folder / "modeling_own.py", "import os")
    write(folder / "events.out.tfevents", "x")
    push_folder(folder, REPO)
    assert tree(hub, REPO) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert "left out: events.out.tfevents, modeling_own.py, training_args.bin" in caplog.text


def test_downloads_need_the_token_of_a_private_repository(hub, run, tmp_path, monkeypatch):
    push_run(run, REPO)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(OSError, match=r"401|404"):
        hf_hub_download(REPO, "config.json", cache_dir=tmp_path / "cache")

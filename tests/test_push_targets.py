"""Where a push goes: what of others it would replace, names that git does not take, and a Hub that changes meanwhile."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, HfApi, constants

from hf_unlearn.cli import main
from hf_unlearn.hub.layout import WEIGHTS
from hf_unlearn.hub.push import run_folder as pushing
from hf_unlearn.hub.push.retries import PushError
from hf_unlearn.hub.push.run_folder import push_run
from hf_unlearn.hub.push.target_names import NO_REF
from tests.support.hub_runs import RUN_FILES, run_folder, write
from tests.support.loopback_hub import ALWAYS, Fault, File
from tests.support.receipts import write_run_receipt

REPO = "alice/theirs"


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "run")


def put(hub, files, repo=REPO, branch=None):
    """One commit of somebody else; returns the state of the repository after it."""
    HfApi().create_repo(repo, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    HfApi().create_commit(repo, operations, commit_message="theirs", revision=branch)
    hub.requests.clear()
    return hub.repository(repo).state()


# --- what is there ----------------------------------------------------------------------------------------------------

OTHERS = [
    {"README.md": b"my own long words"},
    {"report.json": b"{}", "model.safetensors": b"1" * 99, "config.json": b"{}"},
    {"report.json": b'{"schema": "theirs/1"}'},
    {"unlearning_receipt.json": b'{"schema": "hf_unlearn/report/2"}'},
    {"README.md": b"---\ntags: [machine-unlearning]\n---\n", "tokenizer.json": b"{}", "model.nemo": b"1"},
    {"model.ckpt-100.data-00000-of-00001": b"1"},
    {"vocab.txt": b"x"},
]


@pytest.mark.parametrize("files", OTHERS, ids=lambda files: "+".join(files))
def test_what_is_not_ours_is_neither_replaced_nor_removed(hub, run, files, capsys):
    before = put(hub, {**files, "LICENSE": b"free", "notes.txt": b"theirs"})
    assert main(["push", str(run), "--repo", REPO, "--revision", "main"]) == 2
    error = capsys.readouterr().err
    assert f"--overwrite-original {REPO}" in error
    assert any(f"and {name} of it would be lost" in error for name in files)
    assert hub.repository(REPO).state() == before
    pushed = push_run(run, REPO)
    assert pushed.revision.startswith("unlearned-")
    assert hub.repository(REPO).branches["main"] == before["branches"]["main"]
    assert main(["push", str(run), "--repo", REPO, "--overwrite-original", REPO]) == 0
    assert {*hub.repository(REPO).tree()} == {*RUN_FILES, ".gitattributes", "LICENSE"}


def test_what_was_overwritten_is_verified_by_the_receipt(hub, run, tmp_path, monkeypatch, capsys):
    """What a push leaves there and what a receipt calls extra are told apart by one rule."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    write_run_receipt(run)
    stay = {".gitignore": b"*.pt", "LICENSE-APACHE.txt": b"free", "Notice.md": b"by us"}
    put(hub, {**stay, "notes.txt": b"theirs", "CITATION.cff": b"theirs", "docs/LICENSE": b"theirs", "a.bin": b"1"})
    pushed = push_run(run, REPO, overwrite_original=REPO)
    assert pushed.removed == ["CITATION.cff", "a.bin", "docs/LICENSE", "notes.txt"]
    assert {*hub.repository(REPO).tree()} == {*RUN_FILES, "unlearning_receipt.json", ".gitattributes", *stay}
    assert main(["receipt", "verify", "--folder", REPO]) == 0, capsys.readouterr()
    assert not push_run(run, REPO, overwrite_original=REPO).changed


def test_a_licence_alone_leaves_main_free_and_stays(hub, run):
    put(hub, {"LICENSE": b"free"})
    assert push_run(run, REPO).revision == "main"
    assert hub.content(REPO, "LICENSE") == b"free"


MADE_WITH_A_LICENCE = b"---\nlicense: mit\n---\n"


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_repository_made_with_a_licence_is_free_and_keeps_it(hub, run, revision, caplog):
    """The site writes a README of front matter only."""
    put(hub, {"README.md": MADE_WITH_A_LICENCE, ".gitattributes": b"*.bin filter=lfs"})
    assert push_run(run, REPO, revision=revision).revision == "main"
    assert "is replaced" not in caplog.text
    assert card_fields(hub)["license"] == "mit"
    assert not push_run(run, REPO, revision=revision).changed  # taken from the card that was pushed
    push_run(run, REPO, card={"license": "apache-2.0"})
    assert card_fields(hub)["license"] == "apache-2.0"


def test_words_below_a_licence_are_somebodys_own(hub, run):
    before = put(hub, {"README.md": MADE_WITH_A_LICENCE + b"\n# Mine\n"})
    pushed = push_run(run, REPO)
    assert pushed.revision.startswith("unlearned-")
    assert hub.repository(REPO).branches["main"] == before["branches"]["main"]


def test_the_licence_of_another_model_is_not_taken(hub, run):
    put(hub, {"README.md": MADE_WITH_A_LICENCE, "model.safetensors": b"1" * 99})
    pushed = push_run(run, REPO)
    assert "license" not in yaml.safe_load(hub.content(REPO, "README.md", pushed.revision).decode().split("---")[1])


def card_fields(hub):
    return yaml.safe_load(hub.content(REPO, "README.md").decode().split("---")[1])


@pytest.mark.parametrize("kind", ["report", "receipt"])
def test_ours_is_known_by_its_schema_where_the_card_was_replaced(hub, run, kind, caplog):
    name = {"report": "report.json", "receipt": "unlearning_receipt.json"}[kind]
    put(hub, {name: json.dumps({"schema": f"hf_unlearn/{kind}/1"}).encode(), "README.md": b"mine", "vocab.txt": b"old"})
    pushed = push_run(run, REPO, revision="main")
    assert "vocab.txt" in pushed.removed
    assert "README.md on 'main' is not of hf_unlearn and is replaced" in caplog.text
    caplog.clear()
    push_run(run, REPO, revision="main")
    assert "is replaced" not in caplog.text


@pytest.mark.parametrize(
    "name", ["a.nemo", "model.ckpt.data-00000-of-00001", "model.ckpt-7.index", "x/y.onnx", "m.BIN"]
)
def test_weights_of_other_formats_are_known(name):
    assert WEIGHTS.fullmatch(name)


def test_no_branch_starts_from_a_commit_that_holds_the_original(hub, run, capsys):
    put(hub, {"model.safetensors": b"1" * 99, "config.json": b"{}"})
    repository = hub.repository(REPO)
    head = repository.branches["main"]
    repository.commits = {head: {**repository.commits[head], "parent": None}}  # history squashed
    before = repository.state()
    assert main(["push", str(run), "--repo", REPO]) == 2
    assert "first commit, which holds config.json" in capsys.readouterr().err
    assert repository.state() == before


def test_a_commit_between_look_and_push_is_kept(hub, run, capsys):
    HfApi().create_repo(REPO)

    def theirs(hub):
        hub.repository(REPO).commit("main", "theirs", {"vocab.txt": File.small(b"theirs")}, [])

    hub.faults[:] = [Fault(theirs, match="GET .*/refs")]
    assert main(["push", str(run), "--repo", REPO]) == 2
    assert "(412); nothing was overwritten" in capsys.readouterr().err
    assert {*hub.repository(REPO).tree()} == {".gitattributes", "vocab.txt"}
    assert push_run(run, REPO).revision.startswith("unlearned-")  # looked at anew


# --- names ------------------------------------------------------------------------------------------------------------

REFS = [
    "",
    "v1",
    "a b",
    "a..b",
    "-x",
    "x.lock",
    "x.lock/y",
    "a/.b",
    ".a",
    "a.",
    "a/",
    "/a",
    "a//b",
    "a~1",
    "a^",
    "a:b",
    "a?",
]
REFS += ["a*", "a[b", "a\\b", "@", "a@{1}", "a@b", "é", "release/1.0", "a\x7fb", "a\tb", "x.lockx", "-", "a-b_c.d"]


@pytest.mark.parametrize("name", REFS)
def test_names_are_those_that_git_takes(name):
    asked = subprocess.run(["git", "check-ref-format", "--branch", name], check=False, capture_output=True, timeout=30)
    assert (NO_REF.fullmatch(name) is None) == (asked.returncode == 0)


@pytest.mark.parametrize("name", ["HEAD", "refs/heads/main", "a" * 40, "0" * 64])
def test_a_name_of_something_else_is_no_branch(name):
    assert NO_REF.fullmatch(name)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tag", "a b"], "`tag='a b'`"),
        (["--tag", "v1", "--tag", "a..b"], "`tag='a..b'`"),
        (["--revision", "refs/heads/main"], "`revision='refs/heads/main'`"),
        (["--revision", "a" * 40], "`revision='aaaa"),
        (["--overwrite-original", "alice/other"], "`overwrite_original='alice/other'`"),
        (["--repo", "alice/x\x1b]0;y"], "no name on the Hub"),
        (["--repo", "alice/"], "no name on the Hub"),
        (["--repo", "../../etc"], "no name on the Hub"),
        (["--sign-key", "nowhere.pem"], "`sign_key`"),
        (["--base-model", "../alice/secret"], "`base_model="),
        (["--base-model", "x/y](javascript:alert(1))<img>"], "`base_model="),
    ],
)
def test_names_are_checked_before_anything_is_sent(hub, run, capsys, words, message, dry):
    assert main(["push", str(run), "--repo", REPO, *words, *dry]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "\x1b" not in error
    assert hub.requests == []


def test_names_of_files_are_shown_without_hidden_characters(hub, run, capsys):
    write(run / "evil\x1b]0;pwn\x07\nError: fake line.txt", "x")
    assert main(["push", str(run), "--repo", REPO, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nError" not in out


def test_a_tag_that_the_hub_does_not_take_leaves_a_model_and_says_where(hub, run, capsys):
    hub.faults[:] = [Fault(400, times=ALWAYS, match="POST .*/tag/")]
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 2
    head = hub.repository(REPO).branches["main"]
    assert f"The model is on 'main' of {REPO}, commit {head[:8]}, but without the tag 'v1'" in capsys.readouterr().err


def test_a_tag_taken_meanwhile_is_not_taken_for_ours(hub, run, capsys):
    def theirs(hub):
        hub.repository(REPO).tags["v1"] = next(iter(hub.repository(REPO).commits))

    hub.faults[:] = [Fault(theirs, match="POST .*/tag/")]
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 2
    assert "without the tag 'v1': `tag='v1'` is taken" in capsys.readouterr().err


def test_a_tag_at_the_head_does_not_let_the_branch_move(hub, run):
    push_run(run, REPO, tags=["v1"])
    before = hub.repository(REPO).state()
    write(run / "README.md", "---\nlicense: mit\n---\nnew\n")
    with pytest.raises(PushError, match="`tag='v1'` is taken"):
        push_run(run, REPO, tags=["v1"])
    assert hub.repository(REPO).state() == before


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_push_leaves_nothing_behind(hub, run, sent, code):
    before = put(hub, {"model.safetensors": b"1" * 99, "config.json": b"{}"})
    hub.hang_seconds = 30
    hub.faults[:] = [Fault("hang", times=ALWAYS, match="POST .*/commit/")]
    words = [sys.executable, "-m", "hf_unlearn.cli", "push", str(run), "--repo", REPO]
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(words, env={**os.environ, **settings}, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not hub.faults[0].hits and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.wait(60) == code, process.stderr.read()
    assert hub.repository(REPO).state() == before
    assert not list(run.glob(".push-*"))


def test_what_a_killed_push_left_is_removed(hub, run):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(timeout=30)
    stale = [run / f".push-{platform.node()}-{dead.pid}-x", run / f".push-elsewhere.org-{dead.pid}-x"]
    stale.append(run / f".push-{platform.node()}-{os.getppid()}-x")
    for folder in stale:
        folder.mkdir()
    push_run(run, REPO)
    assert [folder.exists() for folder in stale] == [False, True, True]


# --- one's own namespace ----------------------------------------------------------------------------------------------


def test_a_card_loads_the_model_by_its_full_name(hub, run, monkeypatch):
    seen = SimpleNamespace(repo=None)
    prepare = pushing.prepare_folder

    def look(folder, **settings):
        seen.repo = settings["repo_id"]
        return prepare(folder, **settings)

    monkeypatch.setattr(pushing, "prepare_folder", look)
    assert push_run(run, "bert-base-uncased").repo_id == "alice/bert-base-uncased"
    assert seen.repo == "alice/bert-base-uncased"

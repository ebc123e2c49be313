"""Files of others on a branch stay, files of an earlier push are replaced."""

import hashlib
import json
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import constants

from hf_unlearn.cli import main
from hf_unlearn.hub.push.branch_contents import same_files
from hf_unlearn.hub.push.retries import PushError
from hf_unlearn.hub.push.run_folder import push_run
from tests.hub.push.support import REPO, put
from tests.support.hub_runs import RUN_FILES, write
from tests.support.receipts import write_run_receipt

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
def test_files_of_others_are_neither_replaced_nor_removed(hub, run, files, capsys):
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


def test_an_overwritten_branch_passes_verification_by_its_receipt(hub, run, tmp_path, monkeypatch, capsys):
    """A push keeps exactly those files of others that a receipt does not call extra."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    write_run_receipt(run)
    stay = {".gitignore": b"*.pt", "LICENSE-APACHE.txt": b"free", "Notice.md": b"by us"}
    put(hub, {**stay, "notes.txt": b"theirs", "CITATION.cff": b"theirs", "docs/LICENSE": b"theirs", "a.bin": b"1"})
    pushed = push_run(run, REPO, overwrite_original=REPO)
    assert pushed.removed == ["CITATION.cff", "a.bin", "docs/LICENSE", "notes.txt"]
    assert {*hub.repository(REPO).tree()} == {*RUN_FILES, "unlearning_receipt.json", ".gitattributes", *stay}
    assert main(["receipt", "verify", "--folder", REPO]) == 0, capsys.readouterr()
    assert not push_run(run, REPO, overwrite_original=REPO).changed


def test_a_branch_with_only_a_license_is_free(hub, run):
    put(hub, {"LICENSE": b"free"})
    assert push_run(run, REPO).revision == "main"
    assert hub.content(REPO, "LICENSE") == b"free"


MADE_WITH_A_LICENCE = b"---\nlicense: mit\n---\n"


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_repository_made_with_a_license_is_free_and_keeps_the_license(hub, run, revision, caplog):
    """The site writes a README of front matter only."""
    put(hub, {"README.md": MADE_WITH_A_LICENCE, ".gitattributes": b"*.bin filter=lfs"})
    assert push_run(run, REPO, revision=revision).revision == "main"
    assert "is replaced" not in caplog.text
    assert card_fields(hub)["license"] == "mit"
    assert not push_run(run, REPO, revision=revision).changed  # taken from the card that was pushed
    push_run(run, REPO, card={"license": "apache-2.0"})
    assert card_fields(hub)["license"] == "apache-2.0"


def test_a_readme_with_text_belongs_to_somebody(hub, run):
    before = put(hub, {"README.md": MADE_WITH_A_LICENCE + b"\n# Mine\n"})
    pushed = push_run(run, REPO)
    assert pushed.revision.startswith("unlearned-")
    assert hub.repository(REPO).branches["main"] == before["branches"]["main"]


def test_the_license_of_another_model_is_not_taken(hub, run):
    put(hub, {"README.md": MADE_WITH_A_LICENCE, "model.safetensors": b"1" * 99})
    pushed = push_run(run, REPO)
    assert "license" not in yaml.safe_load(hub.content(REPO, "README.md", pushed.revision).decode().split("---")[1])


def card_fields(hub):
    return yaml.safe_load(hub.content(REPO, "README.md").decode().split("---")[1])


@pytest.mark.parametrize("kind", ["report", "receipt"])
def test_an_earlier_push_is_known_by_the_schema_of_report_or_receipt(hub, run, kind, caplog):
    name = {"report": "report.json", "receipt": "unlearning_receipt.json"}[kind]
    put(hub, {name: json.dumps({"schema": f"hf_unlearn/{kind}/1"}).encode(), "README.md": b"mine", "vocab.txt": b"old"})
    pushed = push_run(run, REPO, revision="main")
    assert "vocab.txt" in pushed.removed
    assert "README.md on 'main' is not of hf_unlearn and is replaced" in caplog.text
    caplog.clear()
    push_run(run, REPO, revision="main")
    assert "is replaced" not in caplog.text


def test_a_tag_at_the_head_does_not_let_the_branch_move(hub, run):
    push_run(run, REPO, tags=["v1"])
    before = hub.repository(REPO).state()
    write(run / "README.md", "---\nlicense: mit\n---\nnew\n")
    with pytest.raises(PushError, match="`tag='v1'` is taken"):
        push_run(run, REPO, tags=["v1"])
    assert hub.repository(REPO).state() == before


def test_files_are_compared_by_the_digests_of_git_and_of_lfs(tmp_path):
    write(tmp_path / "small", "a few words\n")
    write(tmp_path / "large", "many words\n")
    asked = subprocess.run(["git", "hash-object", tmp_path / "small"], check=True, capture_output=True, timeout=30)
    large = SimpleNamespace(sha256=hashlib.sha256(b"many words\n").hexdigest())
    files = [SimpleNamespace(rfilename="small", lfs=None, blob_id=asked.stdout.decode().strip())]
    files.append(SimpleNamespace(rfilename="large", lfs=large, blob_id="of a pointer"))
    there = SimpleNamespace(siblings=files)
    assert same_files(there, tmp_path, ["small", "large"])
    assert not same_files(there, tmp_path, ["small", "missing"])
    for name in ("small", "large"):
        before = (tmp_path / name).read_text()
        write(tmp_path / name, before + " ")
        assert not same_files(there, tmp_path, ["small", "large"])
        write(tmp_path / name, before)

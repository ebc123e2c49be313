"""What of a run's folder is prepared for the Hub, and which folders are refused."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoTokenizer, BertweetTokenizer

from hf_unlearn.cli import main
from hf_unlearn.evaluation.audit.verdicts import MEANING
from hf_unlearn.hub.card.evaluation_card import write_card
from hf_unlearn.hub.push.run_folder import push_run
from hf_unlearn.hub.push.staging import inventory, prepare_folder
from hf_unlearn.hub.receipt import verify_folder
from hf_unlearn.hub.receipt.signing import generate_key, read_public_key, sign
from hf_unlearn.utils.files import front_matter
from tests.hub.push.support import REPO
from tests.support.hub_runs import PRIVATE, RUN_FILES, digests, run_folder, write
from tests.support.receipts import write_run_receipt

ROOT = Path(__file__).parents[3]


def test_a_tokenizer_with_its_own_file_names_arrives_whole(tmp_path):
    run = run_folder(tmp_path / "run")
    write(tmp_path / "vocab.txt", "hello 1\nworld 1\n")
    write(tmp_path / "bpe.codes", "h e 1\n")
    tokenizer = BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))
    tokenizer.save_pretrained(run / "model")
    config = {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
    write(run / "model/config.json", json.dumps(config))
    expected = AutoTokenizer.from_pretrained(run / "model")
    with prepare_folder(run) as staged:
        arrived = AutoTokenizer.from_pretrained(staged.folder)
    assert type(arrived) is type(expected) is BertweetTokenizer
    assert arrived.bpe_ranks == expected.bpe_ranks != {}
    assert arrived.tokenize("hello world") == expected.tokenize("hello world")


def test_the_staged_folder_is_laid_out_as_on_the_hub_and_goes_away(tmp_path):
    run = run_folder(tmp_path / "run")
    before = digests(run)
    with prepare_folder(run) as staged:
        assert sorted(digests(staged.folder)) == RUN_FILES
        assert inventory(staged.folder) == (RUN_FILES, [])
        assert not set(staged.left_out) & set(RUN_FILES)
        assert all(any(name.startswith(out) for out in staged.left_out) for name in PRIVATE if "/" not in name)
        assert os.path.samefile(staged.folder / "model.safetensors", run / "model" / "model.safetensors")  # no copy
    assert not staged.folder.exists()
    assert digests(run) == before


def test_the_folder_of_a_model_can_be_staged(tmp_path):
    run = run_folder(tmp_path / "run")
    with prepare_folder(run / "model") as staged:
        assert sorted(digests(staged.folder)) == [n for n in RUN_FILES if n not in ("figures/roc.png", "report.json")]


@pytest.fixture
def measured(tmp_path):
    """A run with a report that a card is rendered from, and its card."""
    run = run_folder(tmp_path / "run")
    report = json.loads((ROOT / "model_cards/digits-vit/jit/report.json").read_text())
    write(run / "report.json", json.dumps(report))
    write_card(run)
    return run


def audit_of(run):
    report = json.loads((run / "report.json").read_text())
    about = {"weights": report["run"]["weights"], "retrained": 1}
    found = {"verdict": [*MEANING][-1], "lines": [], "because": [], "limits": [], "run": about}
    return {"schema": "hf_unlearn/audit/1", **found}


def test_a_card_as_it_was_rendered_is_rendered_again(measured, caplog):
    before = (measured / "README.md").read_text()
    write_card(measured, repo_id="alice/elsewhere")
    write(measured / "audit.json", json.dumps(audit_of(measured)))
    with prepare_folder(measured, repo_id="alice/here") as staged:
        text = (staged.folder / "README.md").read_text()
    assert "No audit was made" in before
    assert "No audit was made" not in text
    assert f"**What does an audit say?** {audit_of(measured)['verdict'].capitalize()}." in text
    assert 'model="alice/here"' in text
    assert "alice/elsewhere" not in text
    assert caplog.text == ""


@pytest.mark.slow
def test_the_page_of_the_report_is_made_of_what_is_published(measured):
    report = json.loads((measured / "report.json").read_text())
    report["run"] |= {"attribute": "employer", "original_path": "/home/alice/model"}
    report["groups"] = {name: {"Acme Ltd": 0.9} for name in report["models"]}
    write(measured / "report.json", json.dumps(report))
    with prepare_folder(measured) as staged, prepare_folder(measured) as again:
        page = (staged.folder / "report.html").read_text()
        assert page == (again.folder / "report.html").read_text(), "the same report gives the same bytes"
        assert "report.html" not in staged.left_out
    assert "Did it forget?" in page
    assert "data:image/svg+xml" in page
    assert "Acme" not in page
    assert "alice" not in page
    write(measured / "report.html", "<p>/home/alice")
    with prepare_folder(measured, note="An unfinished run.") as staged:
        assert not (staged.folder / "report.html").exists()
        assert "report.html" in staged.left_out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "given", "named"), [({}, {}, "mit"), ({"license": "cc0-1.0"}, {}, "cc0-1.0"), ({}, {"license": "x"}, "x")]
)
def test_the_license_of_the_repository_is_named_if_no_other_is_known(measured, known, given, named):
    report = json.loads((measured / "report.json").read_text())
    report["run"]["original_card"] = known
    write(measured / "report.json", json.dumps(report))
    with prepare_folder(measured, card=given, license_there=lambda: "mit") as staged:
        assert front_matter(staged.folder / "README.md")["license"] == named


@pytest.mark.slow
@pytest.mark.parametrize("edit", [lambda t: t.replace("# ", "# My ", 1), lambda t: t + "\nMore.\n", lambda t: t[:-80]])
def test_an_edited_card_stays_and_a_missing_verdict_is_logged(measured, caplog, edit):
    card = measured / "README.md"
    write(card, edit(card.read_text()))
    with prepare_folder(measured, repo_id="alice/here") as staged:
        assert (staged.folder / "README.md").read_bytes() == card.read_bytes()
    assert caplog.text == ""
    write(measured / "audit.json", json.dumps(audit_of(measured)))
    with prepare_folder(measured, repo_id="alice/here") as staged:
        assert (staged.folder / "README.md").read_bytes() == card.read_bytes()
    assert (
        f"README.md was edited by hand and stays as it is, without what audit.json says: {[*MEANING][-1]}"
        in caplog.text
    )


def test_a_receipt_of_other_weights_or_a_changed_one_is_not_published(tmp_path):
    run = run_folder(tmp_path / "run")
    with pytest.raises(ValueError, match="`sign_key`"), prepare_folder(run, sign_key=tmp_path / "key.pem"):
        pass
    write_run_receipt(run)
    with prepare_folder(run) as staged:
        assert verify_folder(staged.folder) == []
    weights = (run / "model" / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "adapter_model.safetensors"):
        save_file({"w": np.zeros(3)}, run / "model" / name, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"not of the weights there: model/{name}"), prepare_folder(run):
            pass
        (run / "model" / name).unlink()
        (run / "model" / "model.safetensors").write_bytes(weights)
    receipt = run / "unlearning_receipt.json"
    receipt.write_text(receipt.read_text().replace('"rows": 12', '"rows": 13'))
    with pytest.raises(ValueError, match="changed"), prepare_folder(run):
        pass
    assert not list(run.glob(".push-*"))


def test_an_outdated_signature_is_left_out_with_a_warning(tmp_path, caplog):
    run = run_folder(tmp_path / "run")
    write_run_receipt(run)
    sign(run / "unlearning_receipt.json", generate_key(tmp_path / "key.pem").with_suffix(""))
    with prepare_folder(run) as staged:
        assert not (staged.folder / "unlearning_receipt.json.sig").exists()
    assert "--sign-key" in caplog.text
    with prepare_folder(run, sign_key=tmp_path / "key.pem") as staged:
        assert verify_folder(staged.folder, read_public_key(tmp_path / "key.pem.pub")) == []
    assert (run / "unlearning_receipt.json.sig").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
            r"holds no model to push.*\*\.safetensors",
        ),
        (lambda m: (m / "config.json").unlink(), "holds no model to push"),
        (lambda m: (m / "model.safetensors").write_bytes(b"\x80\x04 a pickle"), "is no safetensors file"),
        (lambda m: (m / "config.json").write_text("{"), "config.json is no valid JSON"),
        (
            lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-2.safetensors"}}'),
            "lacks model-2.safetensors",
        ),
    ],
    ids=["pickle", "no config", "pickle in disguise", "broken config", "shard missing"],
)
def test_an_incomplete_model_or_a_pickle_is_refused(tmp_path, spoil, message):
    run = run_folder(tmp_path / "run")
    spoil(run / "model")
    with pytest.raises(ValueError, match=message), prepare_folder(run):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"), prepare_folder(tmp_path / "nowhere"):
        pass


REPORT = {"schema": "hf_unlearn/report/2", "models": {"unlearned": {}}, "run": {}}


CASES = [
    ("model/model.safetensors.index.json", {}),
    ("model/model.safetensors.index.json", []),
    ("model/model.safetensors.index.json", {"weight_map": ["model.safetensors"]}),
    ("model/model.safetensors.index.json", {"weight_map": {"w": 5}}),
    ("report.json", {"run": []}),
    ("report.json", {"run": None}),
    ("report.json", {"run": {"original": "x/y"}}),
    ("report.json", {"run": {"original": {"id": 5}}}),
    ("report.json", {"run": {"original": {"id": "x/y", "revision": 5}}}),
    ("report.json", []),
    ("report.json", {"schema": REPORT["schema"]}),
    ("report.json", {**REPORT, "models": []}),
    ("report.json", {**REPORT, "models": {"unlearned": 5}}),
    ("report.json", {**REPORT, "zzz": 1}),
    ("report.json", {**REPORT, "zzz": {}}),
    ("report.json", {**REPORT, "run": {"method": 5}}),
    ("audit.json", {"schema": "hf_unlearn/audit/1"}),
    ("audit.json", {"schema": "hf_unlearn/audit/1", "run": []}),
    (
        "audit.json",
        {"schema": "hf_unlearn/audit/1", "run": {}, "verdict": "x", "lines": [5], "because": [], "limits": []},
    ),
    ("audit.json", []),
    ("unlearning_receipt.json", "{"),
    ("model/config.json", []),
    ("model/config.json", {"_name_or_path": 5}),
    ("model/adapter_config.json", {"base_model_name_or_path": 5}),
]


@pytest.mark.parametrize(("file", "content"), CASES, ids=lambda value: json.dumps(value)[:60])
def test_a_malformed_file_is_named_by_push_and_card(tmp_path, capsys, file, content):
    run = run_folder(tmp_path / "run")
    if file == "audit.json":
        write(run / "report.json", json.dumps(REPORT))
    if "adapter" in file:
        (run / "model/config.json").unlink()
        save_file({}, run / "model/adapter_model.safetensors")
    write(run / file, content if isinstance(content, str) else json.dumps(content))
    name = file.rpartition("/")[2]
    assert main(["push", str(run), "--repo", "a/b", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert name in error
    if file in ("report.json", "audit.json"):
        assert main(["card", str(run)]) == 2
        assert capsys.readouterr().err.startswith("Error: ")
        assert not (run / "README.md").exists()
    assert not list(run.glob(".push-*"))


def test_a_dry_run_lists_and_sends_nothing(hub, run, capsys):
    assert main(["push", str(run), "--repo", REPO, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}  (" in out for name in RUN_FILES)
    assert "leave out: _private/, checkpoint-3/, private/, report.html, report.md, training_args.bin" in out
    assert hub.requests == []
    assert {p.name for p in run.iterdir() if p.name.startswith(".")} == set()


def test_names_of_files_are_shown_without_hidden_characters(hub, run, capsys):
    write(run / "evil\x1b]0;pwn\x07\nError: fake line.txt", "x")
    assert main(["push", str(run), "--repo", REPO, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nError" not in out


def test_staging_folders_of_killed_pushes_are_removed(hub, run):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(timeout=30)
    stale = [run / f".push-{platform.node()}-{dead.pid}-x", run / f".push-elsewhere.org-{dead.pid}-x"]
    stale.append(run / f".push-{platform.node()}-{os.getppid()}-x")
    for folder in stale:
        folder.mkdir()
    push_run(run, REPO)
    assert [folder.exists() for folder in stale] == [False, True, True]

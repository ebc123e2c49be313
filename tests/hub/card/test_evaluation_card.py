"""The card: its bytes follow from the report, and it warns its reader."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_unlearn import JiT, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.hub.card.evaluation_card import MARK, is_rendered, render_card, write_card
from hf_unlearn.hub.receipt import RECEIPT, verify_folder
from hf_unlearn.hub.receipt.signing import signature_file
from hf_unlearn.pipeline.prepare import check_folders
from tests.hub.card.support import figures_of, head, json_of, problems, report_of
from tests.support.data import data_for
from tests.support.runs import trainer_for

pytestmark = pytest.mark.xdist_group("card of a run")

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_run_writes_its_card_and_the_report_gives_the_same_bytes(run):
    assert run.code == 0
    receipt = json.loads((run.folder / RECEIPT).read_text())
    assert render_card(report_of(run), figures=figures_of(run.folder), receipt=receipt) == run.text
    alone = render_card(report_of(run), figures=figures_of(run.folder))
    without = re.sub(r"## Receipt\n.*?(?=## Cost)", "", run.text, flags=re.DOTALL)
    assert without.split(MARK)[0] == alone.split(MARK)[0]
    assert is_rendered(run.text)
    assert is_rendered(alone)
    assert not is_rendered(without)
    assert verify_folder(run.folder) == []
    (run.folder / "README.md").unlink()
    assert main(["card", str(run.folder)]) == 0
    assert (run.folder / "README.md").read_text() == run.text
    assert verify_folder(run.folder) == []


def test_paths_and_tokens_stay_out_of_report_and_card(run):
    assert "base_model" not in head(run.text)
    assert "datasets" not in head(run.text)
    written = b"".join(p.read_bytes() for p in run.folder.glob("*") if p.is_file())
    for word in (str(run.root), run.root.name, "hf_AAAA", "/tmp", str(Path.home())):
        assert word.encode() not in written
    report = report_of(run)["run"]
    assert report["left_out"] == ["model", "dataset"]
    assert report["original"] is report["dataset"] is None
    assert report["original_card"] == {"license": "cc-by-4.0", "language": "en"}


def test_the_card_says_what_was_asked_and_what_was_measured(run):
    report = report_of(run)
    for words in (
        "**Request:** forget class LABEL_1: 24 of 96 training rows.",
        "Method **jit** (JiT).",
        "[An Information Theoretic Approach to Machine Unlearning](https://arxiv.org/abs/2402.01401)",
        "L(θ) = (1/N)",
        "hide weights that still know",
        "a new head on the same features",
        "not over seeds",
        "None was made of this model.",
        "hf-unlearn audit --original ORIGINAL --unlearned OUT/model",
        "--forget DATA:train --forget_class 1",
        "Seeds: 5 of the run, 6 of the retrained model.",
    ):
        assert words in run.text, words
    assert f"{100 * report['seconds']['ratio']:.1f} % of the time" in run.text
    table = [line for line in run.text.splitlines() if line.startswith("| ") and " | " in line]
    assert len(table) >= 15
    assert re.search(
        r"\| accuracy on the forget set \(%\) \| \d+\.\d \[.*\] \| \d+\.\d \[.*\] \| \d+\.\d \[.*\] \|", run.text
    )
    links = re.findall(r"!\[.*?\]\((.*?)\)", run.text)
    assert sorted(links) == figures_of(run.folder)
    assert all((run.folder / link).is_file() for link in links)
    sentences = [line for line in run.text.splitlines() if line.startswith("- ") and len(line) > 40]
    assert len(set(sentences)) == len(sentences), "nothing is said twice"
    top = run.text.split("## What was asked")[0]
    assert "hidden in the answers rather than removed" in top
    for warning in report["warnings"]:
        assert warning in top


def test_the_card_gives_the_seeds_of_all_retrained_models(run):
    report = report_of(run)
    report["run"]["recipe"]["retrain"] = 3
    text = render_card(report)
    assert "5 of the run, 6 to 8 of the retrained models, the first of which is in the tables." in text
    assert "--retrained OUT/retrained OUT/retrained-2 OUT/retrained-3 " in text


def test_the_card_is_rendered_at_once_without_network_or_torch(run, no_network):
    report = report_of(run)
    started = time.process_time()
    render_card(report, figures=figures_of(run.folder))
    assert time.process_time() - started < 1
    code = f"import sys; from hf_unlearn.cli import main; main(['card', {str(run.folder)!r}]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.split()[-1] == "False"


def test_a_failed_run_says_so_first(tmp_path):
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), forget_target=0.0, max_steps=1, trust_region=1e-3)
    trainer.train()
    assert not trainer.outcome.ok
    report = json_of(trainer.report(test_dataset=data_for("vit", 36, 7)))
    body = render_card(report).split("\n---\n")[1].strip().splitlines()
    assert body[2].startswith("> **This run failed")
    assert "the target was not reached" in "".join(body[3:6])
    report["outcome"]["warnings"] = []
    assert "This run failed" not in render_card(report)


def test_the_card_prints_the_warnings_of_the_report_and_the_audit_among_them():
    report = UnlearningReport(
        models={
            name: {"forget_accuracy": share}
            for name, share in (("original", 1.0), ("unlearned", 0.1), ("retrained", 0.6))
        },
        outcome={"warnings": ["the target was not reached"], "forget_target": None},
        run={"adapter": True, "head_only": True},
    )
    audit = {
        "schema": "hf_unlearn/audit/1",
        "verdict": "not forgotten",
        "lines": [],
        "because": [],
        "limits": [],
        "run": {},
    }
    text = render_card(json_of(report), audit=audit)
    top = text.split("This model was made from")[0]
    warnings = [
        line.removeprefix("> - **Warning:** ").removesuffix(".") for line in top.splitlines() if "**Warning:**" in line
    ]
    first, *others, last = report.warnings
    assert warnings == [first, *others, "an audit of this model says: not forgotten", last]


@pytest.mark.slow
def test_an_audit_of_these_weights_is_shown_and_one_of_others_is_not(run, capsys):
    words = ["audit", "--original", run.root / "original", "--unlearned", run.folder / "model", "--use_cpu", "true"]
    words += ["--forget", f"{run.root / 'data'}:train", "--forget_class", "1", "--test", f"{run.root / 'data'}:test"]
    main([*map(str, words), "--output_dir", str(run.folder)])
    audit = json.loads((run.folder / "audit.json").read_text())
    try:
        assert audit["run"]["weights"] == report_of(run)["run"]["weights"]
        assert main(["card", str(run.folder)]) == 0
        text = (run.folder / "README.md").read_text()
        assert f"**{audit['verdict'].capitalize()}.**" in text
        assert f"an audit of this model says: {audit['verdict']}" in text.split("## What was asked")[0]
        for sentence in audit["limits"]:
            assert sentence.replace("*", "\\*") in text
        assert "None was made of this model" not in text
        audit["run"]["weights"] = "0" * 32
        other = render_card(report_of(run), audit=audit)
        assert "of a model with other weights, and is not shown" in other
        assert f"**{audit['verdict'].capitalize()}.**" not in other
        with pytest.raises(ValueError, match="`audit` has the schema 'x'"):
            render_card(report_of(run), audit=audit | {"schema": "x"})
    finally:
        (run.folder / "audit.json").unlink()
        assert main(["card", str(run.folder)]) == 0


def test_somebodys_own_readme_is_not_lost(run, tmp_path, capsys):
    (tmp_path / "report.json").write_text((run.folder / "report.json").read_text())
    (tmp_path / "README.md").write_text("# My project\n")
    assert main(["card", str(tmp_path)]) == 2
    assert "is no card of hf_unlearn" in capsys.readouterr().err
    words = [w if w != run.folder else tmp_path for w in run.words]
    assert main(["run", *map(str, words)]) == 2  # before anything is trained
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    assert main(["card", str(tmp_path), "--overwrite", "--repo", "bob/forgetful"]) == 0
    assert head((tmp_path / "README.md").read_text())["model-index"][0]["name"] == "forgetful"
    assert write_card(tmp_path).read_text().startswith("---\n")
    edited = (tmp_path / "README.md").read_text().replace("## ", "## My ", 1)
    (tmp_path / "README.md").write_text(edited)
    for refused in (["card", str(tmp_path)], ["run", *map(str, words)]):
        assert main(refused) == 2
        assert "was edited by hand" in capsys.readouterr().err
        assert (tmp_path / "README.md").read_text() == edited
    assert main(["card", str(tmp_path), "--overwrite"]) == 0
    check_folders("original", str(tmp_path), overwrite=False)  # a run goes on over a card as it was rendered


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], "There is no report.json"),
        ("{", [], "is no valid JSON"),
        ("[]", [], "must hold a JSON object"),
        ('{"schema": "hf_unlearn/report/1"}', [], "'hf_unlearn/report/1'"),
        ('{"schema": "hf_unlearn/report/2", "models": {}}', ["--repo", "a/b/c"], "`repo_id='a/b/c'`"),
        ('{"schema": "hf_unlearn/report/2", "models": {}}', ["--repo", "../b"], "`repo_id='../b'`"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(tmp_path, capsys, content, words, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main(["card", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()


def test_a_receipt_without_rows_to_forget_names_no_root(run):
    receipt = json.loads((run.folder / RECEIPT).read_text())
    none = {**receipt["forgotten_rows"], "rows": 0}
    text = render_card(report_of(run), receipt={**receipt, "forgotten_rows": none})
    assert "digests of every published file and of the original's weights. Request" in text
    assert receipt["forgotten_rows"]["root"] not in text


@pytest.mark.parametrize("path", ["/etc/roc.png", "../roc.png", "figures/roc.png](http://x)", "figures/\nroc.png"])
def test_a_figure_is_a_plain_path_below_the_card(run, path):
    with pytest.raises(ValueError, match="`figures`"):
        render_card(report_of(run), figures=[path])


def test_a_report_that_knows_little_still_has_a_card():
    text = render_card({"schema": "hf_unlearn/report/2", **UnlearningReport(models={}).as_dict()})
    assert problems(head(text)) == []
    assert "## What this card does not prove" in text


def test_the_receipt_is_sealed_over_the_card_and_a_signature_of_the_old_one_goes(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run.folder, tmp_path / "out"))
    root = json.loads((folder / RECEIPT).read_text())["forgotten_rows"]["root"]
    text = (folder / "README.md").read_text()
    assert f"24 rows that were to be forgotten: one root, {root}" in text
    signature = signature_file(folder / RECEIPT)
    signature.write_text("of the old one")
    assert main(["card", str(folder)]) == 0
    assert signature.exists(), "nothing changed"
    assert main(["card", str(folder), "--repo", "bob/forgetful"]) == 0
    assert "sign it once more" in capsys.readouterr().out
    assert not signature.exists()
    assert verify_folder(folder) == []
    (folder / RECEIPT).write_text((folder / RECEIPT).read_text().replace('"rows": 24', '"rows": 2'))
    assert main(["card", str(folder)]) == 2
    assert "changed" in capsys.readouterr().err

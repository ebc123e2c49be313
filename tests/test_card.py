"""The card: bytes from the report alone, metadata that the Hub takes, and what a reader must be told."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import transformers
import yaml
from cards import keep
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model

from hf_unlearn import GradientAscent, JiT, UnlearningReport, WassersteinBarycenter
from hf_unlearn.cli import main
from hf_unlearn.cli.run import parse
from hf_unlearn.evaluation.report.run_description import data_source, origin
from hf_unlearn.hub.card.evaluation_card import MARK, is_rendered, render_card, write_card
from hf_unlearn.hub.receipt import RECEIPT, verify_folder
from hf_unlearn.hub.receipt.signing import signature_file
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.pipeline.prepare import check_folders
from tests.support.data import data_for, image_data, image_processor, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import trainer_for

ROOT = Path(__file__).parents[1]

# --- what the Hub documents (docs/hub/model-cards, docs/hub/repositories-licenses, hub-docs/modelcard.md) --------------

LICENSES = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0
epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other"""
PIPELINES = ("image-classification", "text-classification")  # of all those that a classifier of ours can be
RELATIONS = ("adapter", "finetune", "merge", "quantized")
KEYS = """license language library_name pipeline_tag base_model base_model_relation datasets metrics tags model-index"""
REPO = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"


def problems(data):
    """What the Hub would refuse, or not understand."""

    def texts(value):
        return isinstance(value, list) and all(isinstance(v, str) and v for v in value)

    out = [f"unknown key {key}" for key in data if key not in KEYS.split()]
    checks = {
        "license": lambda v: v in LICENSES.split(),
        "language": lambda v: all(re.fullmatch("[a-z]{2,3}", x) for x in (v if isinstance(v, list) else [v])),
        "library_name": lambda v: v in ("transformers", "peft", "hf_unlearn"),
        "pipeline_tag": lambda v: v in PIPELINES,
        "base_model": lambda v: isinstance(v, str) and re.fullmatch(REPO, v),
        "base_model_relation": lambda v: v in RELATIONS and "base_model" in data,
        "datasets": lambda v: texts(v) and all(re.fullmatch(REPO, x) for x in v),
        "metrics": texts,
        "tags": lambda v: texts(v) and len(set(v)) == len(v),
        "model-index": lambda v: isinstance(v, list) and len(v) == 1,
    }
    out += [f"bad {key}" for key, right in checks.items() if key in data and not right(data[key])]
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str) or not model["name"]:
            out.append("model-index without a name")
        for result in model.get("results", []):
            if result.get("task", {}).get("type") not in PIPELINES:
                out.append("a task without a type")
            if not all(isinstance(result.get("dataset", {}).get(k), str) for k in ("type", "name", "split")):
                out.append("a dataset without type, name or split")
            for metric in result.get("metrics") or [{}]:
                numbers = isinstance(metric.get("value"), int | float) and abs(metric["value"]) < float("inf")
                if not isinstance(metric.get("type"), str) or not numbers:
                    out.append("a metric without a type or a number")
    return out


def head(text):
    """The front matter of a card."""
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def json_of(report):
    return json.loads(json.dumps(report.as_dict(), allow_nan=False))


# --- runs -------------------------------------------------------------------------------------------------------------


def write_images(folder, label_names=None):
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed)
        if label_names:
            data = data.cast_column("label", datasets.ClassLabel(names=label_names))
        folder.mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the command line, from an original with a card of its own."""
    root = tmp_path_factory.mktemp("card")
    save_model(trained("vit"), image_processor(), root / "original")
    (root / "original" / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n# An original\n")
    write_images(root / "data")
    (root / "recipe.yaml").write_text("forget_class: [1]\nmethod: jit\nsigma: 0.9\nmax_steps: 40\nseed: 5\n")
    words = ["--config", root / "recipe.yaml", "--model", root / "original", "--dataset", root / "data"]
    words += ["--output_dir", root / "out", "--use_cpu", "true", "--disable_tqdm", "true", "--retrain", "true"]
    words += ["--train_epochs", "2", "--hub_token", "hf_" + "A" * 34]
    code = main(["run", *map(str, words)])
    folder = root / "out"
    return SimpleNamespace(code=code, root=root, folder=folder, text=(folder / "README.md").read_text(), words=words)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter on a classifier of texts, saved beside its base."""
    root = tmp_path_factory.mktemp("adapter")
    save_model(trained("bert"), tokenizer(), root / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(root / "base")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights="gaussian"))
    settings = {"update": "lora_", "trust_region": 0.1, "max_steps": 10, "forget_target": 0.0}
    trainer = trainer_for("bert", root / "run", GradientAscent(), model=model, **settings)
    trainer.train()
    trainer.model.save_pretrained(root / "model")
    return SimpleNamespace(root=root, trainer=trainer, report=trainer.report(test_dataset=text_data(36, 7)))


def report_of(run):
    return json.loads((run.folder / "report.json").read_text())


def figures_of(folder):
    return sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir())


def test_a_run_writes_its_card_and_the_report_gives_the_same_bytes(run):
    assert run.code == 0
    receipt = json.loads((run.folder / RECEIPT).read_text())
    assert render_card(report_of(run), figures=figures_of(run.folder), receipt=receipt) == run.text
    alone = render_card(report_of(run), figures=figures_of(run.folder))
    without = re.sub(r"## Receipt\n.*?(?=## Cost)", "", run.text, flags=re.DOTALL)
    assert MARK.sub("", without) == MARK.sub("", alone)
    assert is_rendered(run.text)
    assert is_rendered(alone)
    assert not is_rendered(without)
    assert verify_folder(run.folder) == []
    (run.folder / "README.md").unlink()
    assert main(["card", str(run.folder)]) == 0
    assert (run.folder / "README.md").read_text() == run.text
    assert verify_folder(run.folder) == []


def test_metadata_comes_back_from_the_library_and_keeps_the_documented_rules(run):
    card, report = ModelCard(run.text), report_of(run)
    assert str(card) == run.text
    assert card.data.to_dict() == head(run.text)
    assert problems(head(run.text)) == []
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-classification"
    assert {"machine-unlearning", "hf_unlearn", "jit"} <= set(card.data.tags)
    assert (card.data.license, card.data.language) == ("cc-by-4.0", "en")
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    measures = report["models"]["unlearned"]
    assert found == {(s, m): measures[f"{s}_{m}"] for s in ("forget", "retain", "test") for m in ("accuracy", "f1")}


@pytest.mark.parametrize(
    "change",
    [
        {"license": "Apache 2"},
        {"license": ["mit", "none"]},
        {"language": "english"},
        {"pipeline_tag": "forgetting"},
        {"base_model": "/tmp/original"},
        {"base_model_relation": "child", "base_model": "a/b"},
        {"base_model_relation": "finetune"},
        {"tags": ["a", "a"]},
        {"tags": "a"},
        {"datasets": ["../data"]},
        {"colour": "red"},
        {"model-index": [{"results": []}]},
        {"model-index": [{"name": "x", "results": [{"task": {}, "dataset": {}, "metrics": [{"type": "f1"}]}]}]},
    ],
)
def test_the_rules_notice_what_is_wrong(run, change):
    assert problems(head(run.text) | change)


def test_local_folders_leave_no_path_and_no_token(run):
    assert "base_model" not in head(run.text)
    assert "datasets" not in head(run.text)
    written = b"".join(p.read_bytes() for p in run.folder.glob("*") if p.is_file())
    for word in (str(run.root), run.root.name, "hf_AAAA", "/tmp", str(Path.home())):
        assert word.encode() not in written
    report = report_of(run)["run"]
    assert report["left_out"] == ["model", "dataset"]
    assert report["original"] is report["dataset"] is None
    assert report["original_card"] == {"license": "cc-by-4.0", "language": "en"}


def test_the_recipe_on_the_card_is_the_one_that_ran(run, tmp_path):
    recipe = re.search(r"save these keys as `recipe.yaml`.*?```yaml\n(.*?)\n```", run.text, re.DOTALL)[1]
    (tmp_path / "recipe.yaml").write_text(recipe)
    again = parse(["--config", str(tmp_path / "recipe.yaml"), *map(str, run.words[2:8]), "--disable_tqdm", "true"])
    first = parse(list(map(str, run.words)))
    free = {"forget_kind", "anchors", "hub_token", "distributed_state"}  # resolved, secret, or of the process
    for ours, theirs in zip(map(vars, again), map(vars, first), strict=True):
        assert {k for k in ours if ours[k] != theirs[k]} <= free
    assert "hf-unlearn run --config recipe.yaml \\\n    --model ORIGINAL \\\n    --dataset DATA" in run.text


def test_plain_words_say_what_was_asked_and_what_came_out(run):
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


def load_and_call(text, folder, monkeypatch, **names):
    """Run the card's three lines of Python where the card is."""
    monkeypatch.chdir(folder)
    code = re.search(r"## How to load\n\n```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 3
    for name, value in names.items():
        code = code.replace(name, value)
    namespace = {}
    exec(code, namespace)
    return namespace


def test_the_lines_to_load_it_load_it(run, monkeypatch, capsys):
    image_data(1)[0]["image"].save(run.folder / "picture.png")
    load_and_call(run.text, run.folder, monkeypatch)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1].replace("'", '"'))
    assert {entry["label"] for entry in answer} <= {f"LABEL_{i}" for i in range(4)}


def test_an_adapter_is_named_as_a_patch_and_loads_on_its_base(adapter, monkeypatch):
    text = render_card(json_of(adapter.report))
    meta = head(text)
    assert (meta["library_name"], meta["pipeline_tag"]) == ("peft", "text-classification")
    assert problems(meta) == []
    assert "publishing this patch erases nothing" in text.split("## What was asked")[0]
    assert "The tokenizer is the original's" in text
    loaded = load_and_call(text, adapter.root, monkeypatch, ORIGINAL="base")["model"]
    ours = trained("bert").eval()
    batch = {"input_ids": adapter.trainer.processor(text_data(1)[0])["input_ids"][None]}
    expected = adapter.trainer.model.eval()(**batch).logits
    assert loaded.eval()(**batch).logits.equal(expected)
    assert not ours(**batch).logits.equal(expected)


def test_a_barycenter_is_not_loaded_as_if_it_were_the_original(tmp_path, monkeypatch):
    data = data_for("vit", 64)
    method = WassersteinBarycenter(attribute="group")
    trainer = trainer_for("vit", tmp_path / "run", method, split=SimpleNamespace(forget=None, retain=data))
    trainer.train()
    save_model(trainer.model, image_processor(), tmp_path / "model", method.save)
    text = render_card(json_of(trainer.report(test_dataset=data_for("vit", 36, 7))))
    assert head(text)["library_name"] == "hf_unlearn"
    assert "transformers alone this is the original" in text.split("## What was asked")[0]
    assert "take away the influence of 'group'" in text
    assert "Accuracy in the 2 groups" in text
    assert "where 'group' is" not in text
    namespace = load_and_call(text, tmp_path, monkeypatch)
    batch = trainer.processor.collate([trainer.processor(data[0])])
    batch.pop("labels")
    assert namespace["model"].eval()(**batch).logits.equal(trainer.model.eval()(**batch).logits)


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


# --- where original and data come from --------------------------------------------------------------------------------


def hub_cache(root, monkeypatch, name="alice/vit", commits=("a" * 40,), model="vit"):
    """What a download leaves in the cache of the Hub."""
    repo = root / f"models--{name.replace('/', '--')}"
    for commit in commits:
        trained(model).save_pretrained(repo / "snapshots" / commit)
        (repo / "snapshots" / commit / "README.md").write_text("---\nlicense: mit\n---\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commits[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return repo


def test_an_original_on_the_hub_is_named_with_its_commit(tmp_path, monkeypatch, adapter):
    hub_cache(tmp_path, monkeypatch)
    model = transformers.AutoModelForImageClassification.from_pretrained("alice/vit", cache_dir=tmp_path)
    found = {"original": {"id": "alice/vit", "revision": "a" * 40}, "original_card": {"license": "mit"}}
    assert origin(model) == found
    report = json_of(adapter.report)
    report["run"] |= found
    meta = head(render_card(report, repo_id="bob/forgetful"))
    assert (meta["base_model"], meta["base_model_relation"]) == ("alice/vit", "adapter")
    assert meta["model-index"][0]["name"] == "forgetful"
    assert problems(meta) == []
    report["run"]["adapter"] = False
    assert head(render_card(report))["base_model_relation"] == "finetune"
    given = {"license": "apache-2.0", "tags": ["jit", "mine"], "base_model": "carol/base", "model_name": "Forgetful"}
    meta = head(render_card(report, fields=given))
    assert (meta["license"], meta["base_model"], meta["model-index"][0]["name"]) == (
        "apache-2.0",
        "carol/base",
        "Forgetful",
    )
    assert meta["tags"].count("mine") == 1
    assert head(render_card(report, fields={"base_model": None}))["base_model"] == "alice/vit"
    assert problems(meta) == []
    assert '"bob/forgetful"' in render_card(report, repo_id="bob/forgetful")


def test_of_several_commits_in_the_cache_the_one_that_was_loaded(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch, commits=("a" * 40, "b" * 40))
    model = transformers.AutoModelForImageClassification.from_pretrained("alice/vit", cache_dir=tmp_path)
    assert origin(model)["original"] == {"id": "alice/vit", "revision": None}
    assert origin(model, "main")["original"]["revision"] == "a" * 40
    assert origin(model, "b" * 40)["original"]["revision"] == "b" * 40


def test_a_folder_that_is_gone_is_no_name_on_the_hub(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch)
    trained("vit").save_pretrained(tmp_path / "models" / "vit")
    monkeypatch.chdir(tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained("models/vit")
    assert origin(model)["original"] is None
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    assert origin(model)["original"] is None


def test_data_from_the_hub_is_named_with_its_commit(tmp_path):
    place = tmp_path / "alice___pets" / "default" / "0.0.0" / ("c" * 40)
    text_data(8).save_to_disk(tmp_path / "saved")
    place.mkdir(parents=True)
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(place / "pets-train.arrow")
    data = datasets.Dataset.from_file(str(place / "pets-train.arrow"))
    found = {"id": "alice/pets", "revision": "c" * 40}
    assert data_source(data.shuffle(seed=0).select(range(3))) == {"dataset": found, "dataset_config": None}
    place.rename(place.with_name("0123456789abcdef"))  # of files, or a folder
    moved = datasets.Dataset.from_file(str(place.with_name("0123456789abcdef") / "pets-train.arrow"))
    for local in (moved, text_data(4), [{"text": "w0"}]):
        assert data_source(local)["dataset"] is None


# --- audit, receipt, files --------------------------------------------------------------------------------------------


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
def test_bad_input_ends_with_2_and_writes_nothing(tmp_path, capsys, content, words, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main(["card", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("path", ["/etc/roc.png", "../roc.png", "figures/roc.png](http://x)", "figures/\nroc.png"])
def test_a_figure_is_a_plain_path_below_the_card(run, path):
    with pytest.raises(ValueError, match="`figures`"):
        render_card(report_of(run), figures=[path])


def test_a_report_that_knows_little_still_has_a_card():
    text = render_card({"schema": "hf_unlearn/report/2", **UnlearningReport(models={}).as_dict()})
    assert problems(head(text)) == []
    assert "## What this card does not prove" in text


def test_a_run_is_kept_in_few_bytes(run, tmp_path):
    card = keep(run.folder, tmp_path / "kept")
    assert card.read_text() == (run.folder / "README.md").read_text()
    kept = {p.name: p for p in card.parent.rglob("*") if p.is_file()}
    assert json.loads(kept["report.json"].read_text()) == report_of(run)
    assert {f"figures/{n}" for n in kept if n.endswith(".png")} == set(figures_of(run.folder))
    assert verify_folder(card.parent) == []
    assert sum(p.stat().st_size for p in kept.values()) < 80_000


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


# --- the cards in the repository --------------------------------------------------------------------------------------

RENDERED = sorted((ROOT / "model_cards").glob("*/*/report.json"))


def test_there_are_cards_of_recipes():
    assert RENDERED
    for path in RENDERED:
        assert (ROOT / "recipes" / path.parent.relative_to(ROOT / "model_cards")).with_suffix(".yaml").is_file()
    assert sum(p.stat().st_size for p in (ROOT / "model_cards").rglob("*") if p.is_file()) < 3e6


@pytest.mark.parametrize("path", RENDERED, ids=lambda p: f"{p.parent.parent.name}/{p.parent.name}")
def test_a_card_in_the_repository_is_that_of_its_report(path, tmp_path):
    folder = tmp_path / "card"
    shutil.copytree(path.parent, folder)
    before = (folder / "README.md").read_text()
    assert verify_folder(folder) == []
    assert write_card(folder).read_text() == before
    assert problems(head(before)) == []
    for file in folder.glob("*"):
        if file.is_file():
            assert not re.search(r"/(home|work|tmp|root|Users)/|[A-Z]:\\\\", file.read_text()), file

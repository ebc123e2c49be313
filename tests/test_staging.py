"""What of a run's folder may leave the machine, and what the copy that does is cleaned of."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, BertweetTokenizer

from hf_unlearn.evaluation.audit.verdicts import MEANING
from hf_unlearn.evaluation.report.plots import drawings
from hf_unlearn.evaluation.report.report import UnlearningReport
from hf_unlearn.hub.card.evaluation_card import write_card
from hf_unlearn.hub.layout import FIGURES, is_publishable
from hf_unlearn.hub.push.cleaning import without_paths, without_values
from hf_unlearn.hub.push.staging import inventory, prepare_folder
from hf_unlearn.hub.receipt import verify_folder
from hf_unlearn.hub.receipt.signing import generate_key, read_public_key, sign
from hf_unlearn.utils.files import front_matter
from tests.support.hub_runs import PRIVATE, RUN_FILES, digests, run_folder, write
from tests.support.receipts import write_run_receipt

ROOT = Path(__file__).parents[1]
PUBLISHED = [
    *RUN_FILES,
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "merges.txt",
    "barycenter.json",
    "barycenter.safetensors",
    "unlearning_receipt.json",
    "unlearning_receipt.json.sig",
    "bpe.codes",
    "spm.model",
    "sentencepiece.model",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
]
KEPT = [
    "training_args.bin",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "rows.pkl",
    "optimizer.pt",
    "checkpoint-3/model.safetensors",
    "_private/rows.json",
    "private/report.json",
    "unlearning_state.json",
    "trainer_state.json",
    "rows.json",
    "train.parquet",
    "modeling.py",
    "figures/rows.csv",
    "figures/forgotten_row_17_alice.png",
    "forgotten_rows_embeddings.safetensors",
    "unlearning_control.safetensors",
    "model-own.safetensors",
    "rows.safetensors.index.json",
    "rows.model",
    "figures/more/roc.png",
    "report.html",
    ".env",
    "../config.json",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_belongs_to_a_model_is_on_the_list(name):
    assert is_publishable(name)


@pytest.mark.parametrize("name", KEPT)
def test_everything_else_is_not(name):
    assert not is_publishable(name)


def test_every_figure_of_a_report_is_on_the_list():
    curve = {"path": [{"retain": 1}, {}]}
    report = UnlearningReport({}, roc={"a": {}}, per_class={"a": []}, confidence={"a": {}}, outcome=curve)
    report.relearning = {"a": [1.0]}
    assert {f"figures/{name}.png" for name in drawings(report)} == {f"figures/{name}.png" for name in FIGURES}
    assert all(is_publishable(f"figures/{name}.png") for name in drawings(report))


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


def test_a_folder_of_a_model_alone_will_do(tmp_path):
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
    assert f"An audit says: {audit_of(measured)['verdict']}" in text
    assert 'model="alice/here"' in text
    assert "alice/elsewhere" not in text
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("known", "given", "named"), [({}, {}, "mit"), ({"license": "cc0-1.0"}, {}, "cc0-1.0"), ({}, {"license": "x"}, "x")]
)
def test_the_licence_of_the_repository_is_named_where_no_other_is_known(measured, known, given, named):
    report = json.loads((measured / "report.json").read_text())
    report["run"]["original_card"] = known
    write(measured / "report.json", json.dumps(report))
    with prepare_folder(measured, card=given, license_there=lambda: "mit") as staged:
        assert front_matter(staged.folder / "README.md")["license"] == named


@pytest.mark.parametrize("edit", [lambda t: t.replace("# ", "# My ", 1), lambda t: t + "\nMore.\n", lambda t: t[:-80]])
def test_a_card_that_was_edited_stays_and_what_it_lacks_is_told(measured, caplog, edit):
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


def test_a_signature_that_no_longer_fits_is_told_and_left_out(tmp_path, caplog):
    run = run_folder(tmp_path / "run")
    write_run_receipt(run)
    sign(run / "unlearning_receipt.json", generate_key(tmp_path / "key.pem").with_suffix(""))
    with prepare_folder(run) as staged:
        assert not (staged.folder / "unlearning_receipt.json.sig").exists()
    assert "--sign-key" in caplog.text
    with prepare_folder(run, sign_key=tmp_path / "key.pem") as staged:
        assert verify_folder(staged.folder, read_public_key(tmp_path / "key.pem.pub")) == []
    assert (run / "unlearning_receipt.json.sig").exists()


def test_paths_are_cleaned_from_the_copy_and_not_from_the_users_files(tmp_path):
    run = run_folder(tmp_path / "run")
    config = {"_name_or_path": "/data/models/vit", "id2label": {"0": "/m/09x0r", "1": "a/b"}, "cache": ["~/x", "y"]}
    write(run / "model/config.json", json.dumps(config))
    tokenizer = {"name_or_path": str(tmp_path), "is_local": True, "local_files_only": True, "pad_token": "/"}
    write(run / "model/tokenizer_config.json", json.dumps(tokenizer))
    weights = {"w": np.arange(7, dtype=np.float32), "v": np.ones((2, 3), dtype=np.float16)}
    notes = {"format": "pt", "source": "/home/alice/run", "windows": "C:\\Users\\alice", "license": "mit"}
    save_file(weights, run / "model/model.safetensors", metadata=notes)
    before = digests(run)
    with prepare_folder(run) as staged:
        read = {n: json.loads((staged.folder / n).read_text()) for n in ("config.json", "tokenizer_config.json")}
        assert read["config.json"] == {"id2label": config["id2label"], "cache": ["y"]}
        assert read["tokenizer_config.json"] == {"pad_token": "/"}
        with safe_open(staged.folder / "model.safetensors", "np") as file:
            assert file.metadata() == {"format": "pt"}
        copied = load_file(staged.folder / "model.safetensors")
    assert all(np.array_equal(copied[name], weights[name]) for name in weights)
    assert digests(run) == before


def test_groups_of_an_attribute_are_numbered_in_a_published_report(tmp_path):
    told = {"value": 0.1, "counts": {"alice": 3, "bob": 5}}
    report = {
        "groups": {"original": {"alice": 0.5, "bob": 0.7}, "unlearned": {"alice": 0.6, "bob": 0.8}},
        "group_intervals": {"original": {"alice": [0.4, 0.6], "bob": [0.6, 0.8]}},
        "information": {"original": told},
        "run": {"attribute": "speaker"},
    }
    found = without_values(report)
    assert "alice" not in json.dumps(found)
    assert found["groups"]["unlearned"] == {"group 1": 0.6, "group 2": 0.8}
    assert found["group_intervals"]["original"] == {"group 1": [0.4, 0.6], "group 2": [0.6, 0.8]}
    assert found["information"]["original"] == {"value": 0.1, "counts": {"group 1": 3, "group 2": 5}}
    sets = {"information": {"original": {"counts": {"forget": 3, "retain": 5}}}, "run": {}}
    assert without_values(sets) == sets
    assert without_values({"groups": [], "run": None}) == {"groups": [], "run": None}
    run = run_folder(tmp_path / "run")
    write(run / "report.json", json.dumps(report))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "report.json").read_text()) == found


@pytest.mark.parametrize(
    "value",
    [
        "/home/alice/x", "C:\\data", "D:/Users/alice/vocab.txt", "~/model", "file:///tmp/x", "'/mnt/disk/y'", "/workspace/z",
        "/nfs/alice.smith/bert", "/Volumes/alice/x", "/gpfs/users/alice/my runs", "\\\\server\\alice\\m", "../alice/secret",
        "/home/alice",
    ],
)  # fmt: skip
def test_paths_of_any_machine_are_found(value):
    assert without_paths({"a": value, "b": [value, 1], "c": {"d": value}, value: 1}) == {"b": [1], "c": {}}


@pytest.mark.parametrize(
    "path", ["/tmp/x", "/nfs/é.smith/run-1/", "D:/a/b", "~/x", "file:///tmp/x", "\\\\nas\\alice\\m"]
)
def test_within_a_text_a_path_becomes_local(path):
    for text in ("loaded from {}", "see '{}'!", "(in {})"):
        assert without_paths({"a": [text.format(path)]}) == {"a": [text.format("local")]}


@pytest.mark.parametrize("label", ["mail in /data/ folder", "/m/09x0r", "/home/alice/x", "C:\\data", "a/b"])
def test_a_class_may_be_called_anything(tmp_path, label):
    run = run_folder(tmp_path / "run")
    config = {"model_type": "vit", "id2label": {"0": "cat", "1": label}, "label2id": {"cat": 0, label: 1}}
    write(run / "model/config.json", json.dumps(config))
    told = {"forgotten_labels": [label], "request": f"class '{label}'", "recipe": {"forget_class": [label]}}
    write(run / "report.json", json.dumps({"run": told, "groups": {"original": {label: 1.0}}}))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "config.json").read_text()) == config
        assert json.loads((staged.folder / "report.json").read_text())["run"] == told


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_folder_of_a_run_is_found_however_json_writes_it(tmp_path, ascii_only):
    run = run_folder(tmp_path / "josé" / "run")
    config = {"model_type": "vit", "note": f"trained in;{run}/model", str(run): 1, "at": [f"in_{run}"]}
    write(run / "model/config.json", json.dumps(config, ensure_ascii=ascii_only))
    with pytest.raises(ValueError, match=r"config\.json holds a path"), prepare_folder(run):
        pass
    write(run / "model/config.json", json.dumps({**config, "at": []}, ensure_ascii=ascii_only))
    with prepare_folder(run) as staged:
        assert json.loads((staged.folder / "config.json").read_text()) == {
            "model_type": "vit",
            "note": "trained in;local",
            "at": [],
        }


def test_a_header_of_tensors_keeps_its_format_alone(tmp_path):
    run, weights = run_folder(tmp_path / "run"), {"w": np.arange(5, dtype=np.float32)}
    notes = {"format": "pt", "hub_token": "hf_" + "A" * 34, "src": "/nfs/alice.smith/run", "rows": "17,99"}
    save_file(weights, run / "model/model.safetensors", metadata=notes)
    with prepare_folder(run) as staged, safe_open(staged.folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert np.array_equal(file.get_tensor("w"), weights["w"])


@pytest.mark.parametrize("value", ["/m/09x0r", "a/b", "https://huggingface.co/data/x", "N/A", "he/she", "/"])
def test_what_only_looks_like_one_stays(value):
    assert without_paths({"label": value}) == {"label": value}


@pytest.mark.parametrize("text", ["made in {tmp}/out", "token hf_" + "aB3" * 12, "see {cwd}/recipes/x.yaml"])
def test_a_text_with_a_path_of_this_machine_or_a_token_is_refused(tmp_path, text):
    run = run_folder(tmp_path / "run")
    said = text.format(tmp=tmp_path, cwd=os.getcwd())
    write(run / "README.md", said)
    with (
        pytest.raises(ValueError, match=r"README\.md holds a path of this machine or a token") as error,
        prepare_folder(run),
    ):
        pass
    assert said not in str(error.value)
    assert not list(run.glob(".push-*"))


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
def test_what_is_no_whole_model_in_safetensors_is_refused(tmp_path, spoil, message):
    run = run_folder(tmp_path / "run")
    spoil(run / "model")
    with pytest.raises(ValueError, match=message), prepare_folder(run):
        pass


def test_no_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"), prepare_folder(tmp_path / "nowhere"):
        pass

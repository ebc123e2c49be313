"""The lines that a card tells its reader to type do what the card says."""

import json
import re
import shlex
from types import SimpleNamespace

import pytest

from hf_unlearn import ForgetRequest, JiT, WassersteinBarycenter
from hf_unlearn.cli.run import parse
from hf_unlearn.hub.card.command_lines import audit_command, citation, run_command, snippet
from hf_unlearn.hub.card.evaluation_card import render_card
from hf_unlearn.models.pretrained import save_model
from tests.hub.card.support import head, json_of, problems
from tests.support.data import data_for, image_data, image_processor, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import trainer_for

pytestmark = pytest.mark.xdist_group("card of a run")


@pytest.mark.slow
def test_the_recipe_on_the_card_is_the_one_that_ran(run, tmp_path):
    recipe = re.search(r"save these keys as `recipe.yaml`.*?```yaml\n(.*?)\n```", run.text, re.DOTALL)[1]
    (tmp_path / "recipe.yaml").write_text(recipe)
    again = parse(["--config", str(tmp_path / "recipe.yaml"), *map(str, run.words[2:8]), "--disable_tqdm", "true"])
    first = parse(list(map(str, run.words)))
    free = {"forget_kind", "anchors", "hub_token", "distributed_state"}  # resolved, secret, or of the process
    for ours, theirs in zip(map(vars, again), map(vars, first), strict=True):
        assert {k for k in ours if ours[k] != theirs[k]} <= free
    assert "hf-unlearn run --config recipe.yaml \\\n    --model ORIGINAL \\\n    --dataset DATA" in run.text


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


@pytest.mark.slow
def test_the_snippet_loads_the_model(run, monkeypatch, capsys):
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


@pytest.mark.slow
def test_a_barycenter_is_not_loaded_as_if_it_were_the_original(tmp_path, monkeypatch):
    data = data_for("vit", 64)
    method = WassersteinBarycenter(attribute="group")
    trainer = trainer_for("vit", tmp_path / "run", method, split=SimpleNamespace(forget=None, retain=data))
    trainer.train()
    save_model(trainer.model, image_processor(), tmp_path / "model", method.save)
    text = render_card(json_of(trainer.report(test_dataset=data_for("vit", 36, 7))))
    assert head(text)["library_name"] == "hf_unlearn"
    assert "with transformers alone, it is the original" in text.split("## What was asked")[0]
    assert "take away the influence of 'group'" in text
    assert "Accuracy in the 2 groups" in text
    assert "where 'group' is" not in text
    namespace = load_and_call(text, tmp_path, monkeypatch)
    batch = trainer.processor.collate([trainer.processor(data[0])])
    batch.pop("labels")
    assert namespace["model"].eval()(**batch).logits.equal(trainer.model.eval()(**batch).logits)


@pytest.mark.parametrize(
    ("recipe", "left_out", "options"),
    [
        ({"forget_class": ["a b", 1]}, [], {"--forget": ["org/data:train"], "--forget_class": ["a b", "1"]}),
        ({"forget_column": "user"}, ["forget_values"], {"--forget_column": ["user"], "--forget_values": ["VALUES"]}),
        ({"forget_class": [1], "train_rows": 9}, [], {"--forget": ["FORGET_ROWS"], "--retain": ["RETAIN_ROWS"]}),
        ({"forget_class": [1], "forget_fraction": 0.5}, [], {"--forget": ["FORGET_ROWS"]}),
        ({"retrain": True}, ["model"], {"--original": ["ORIGINAL"], "--retrained": ["OUT/retrained"]}),
        ({"retrain": 3}, [], {"--retrained": ["OUT/retrained", "OUT/retrained-2", "OUT/retrained-3"]}),
    ],
)
def test_the_audit_command_selects_the_rows_of_the_recipe(recipe, left_out, options):
    splits = {"train": "train", "test": "test"}
    text = audit_command({"recipe": recipe, "left_out": left_out, "dataset": {"id": "org/data"}, "splits": splits})
    given = {}
    for word in shlex.split(text.replace("\\\n", "")):  # as a shell reads it
        if word.startswith("--"):
            given[word] = []
        elif given:
            given[[*given][-1]].append(word)
    assert given["--test"] == ["org/data:test"]
    assert given.items() >= options.items()


def test_there_is_no_command_for_what_cannot_be_repeated_or_audited():
    assert run_command({"left_out": ["model"]}) is None
    assert audit_command({"attribute": "group"}) is None


@pytest.mark.parametrize(
    ("run", "call"),
    [
        ({"task": "text-classification"}, 'classify("A sentence.")'),
        (
            {"task": "text-classification", "text_pair": True},
            'classify({"text": "The first text.", "text_pair": "The second text."})',
        ),
        ({"task": "image-classification"}, 'classify("picture.png")'),
    ],
)
def test_the_example_has_the_inputs_of_the_model(run, call):
    assert call in snippet(run, None)


def test_a_model_of_pairs_is_shown_with_a_pair(tmp_path, monkeypatch, capsys):
    pairs = text_data(48).rename_column("text", "premise")
    pairs = pairs.add_column("hypothesis", pairs["premise"][::-1])
    trainer = trainer_for(
        "bert", tmp_path, JiT(num_perturbations=1), split=ForgetRequest(label=1).split(pairs), max_steps=1
    )
    trainer.train()
    save_model(trainer.model, tokenizer(), tmp_path / "model")
    text = render_card(json_of(trainer.report()))
    classify = load_and_call(text, tmp_path, monkeypatch)["classify"]
    assert eval(capsys.readouterr().out.splitlines()[-1]) == classify(
        {"text": "The first text.", "text_pair": "The second text."}
    )


def test_a_citation_names_the_paper_of_the_method_and_the_library():
    paper = {"title": "On {Forgetting}\\", "url": "https://arxiv.org/abs/2402.01401"}
    both = citation({"about": {"paper": paper}})
    assert "@misc{method, title = {On Forgetting}, eprint = {2402.01401}, archivePrefix = {arXiv}}" in both
    assert (
        both.splitlines()[-1] == citation({}) == citation({"about": {"paper": {**paper, "url": "http://x.example/1"}}})
    )
    assert "@misc{hf_unlearn, title = {hf_unlearn" in both

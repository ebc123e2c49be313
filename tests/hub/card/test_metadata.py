"""The front matter: it keeps the rules that the Hub documents, and names what is known."""

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_unlearn.hub.card.evaluation_card import render_card
from hf_unlearn.hub.card.metadata import metadata
from tests.hub.card.support import head, json_of, problems, report_of

pytestmark = pytest.mark.xdist_group("card of a run")


def test_the_hub_library_reads_the_metadata_and_it_keeps_the_documented_rules(run):
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
def test_the_rules_notice_bad_metadata(run, change):
    assert problems(head(run.text) | change)


def test_an_original_on_the_hub_is_named_with_its_commit(adapter):
    found = {"original": {"id": "alice/vit", "revision": "a" * 40}, "original_card": {"license": "mit"}}
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


def test_fields_may_be_tuples():
    given = {"datasets": ("alice/pets", "bob/cars"), "language": ("en",), "tags": ("mine",)}
    read = yaml.safe_load(metadata({}, fields=given).to_yaml())
    assert (read["datasets"], read["language"], read["tags"][-1]) == (["alice/pets", "bob/cars"], ["en"], "mine")


def test_the_base_of_an_original_that_is_not_on_the_hub_is_named():
    run = {"retraining": {"base": {"id": "org/base", "revision": None}}}
    assert metadata(run).base_model == "org/base"
    assert metadata({**run, "original": {"id": "org/original"}}).base_model == "org/original"
    assert metadata({"retraining": {"base": {"id": "/models/base"}}}).base_model is None
    assert metadata({**run, "adapter": True}).base_model is None  # an adapter needs the original itself


def test_results_that_are_no_numbers_are_left_out():
    measures = {"forget_accuracy": 0.25, "test_accuracy": float("nan"), "retain_f1": float("inf"), "gap": 1.0}
    data = metadata({"task": "image-classification"}, measures, "org/name").to_dict()
    assert [(r.dataset_split, r.metric_value) for r in metadata({}, measures).eval_results] == [("forget", 0.25)]
    assert data["model-index"][0]["name"] == "name"
    assert problems(data) == []
    assert "model-index" not in metadata({}, {}).to_dict()

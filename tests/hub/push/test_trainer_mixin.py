"""`UnlearningTrainer` on the Hub: the base class's methods, without its pickles."""

import inspect
import json
from concurrent.futures import Future

import pytest
import torch
import transformers
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, snapshot_download

from hf_unlearn import UnlearningTrainer
from hf_unlearn.hub.push.retries import PushError
from hf_unlearn.methods import GradientAscent
from tests.support.data import class_split
from tests.support.loopback_hub import ALWAYS, Fault
from tests.support.models import trained
from tests.support.runs import arguments, trainer_for

REPO = "alice/vit"


MODEL_FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


def trainer(folder, **changes):
    return trainer_for("vit", folder, GradientAscent(), retain=False, **{"hub_model_id": REPO, **changes})


def names(hub, commit=None):
    return {*hub.repository(REPO).tree(commit)} - {".gitattributes"}


def messages(hub):
    return [commit["title"] for commit in hub.repository(REPO).commits.values()]


@pytest.mark.slow
def test_the_trained_model_arrives_with_its_report_and_no_pickle(hub, tmp_path):
    split = class_split("vit")
    run = trainer_for("vit", tmp_path / "out", GradientAscent(), split=split, hub_model_id=REPO)
    run.train()
    run.report(retain_dataset=split.retain)
    done = run.push_to_hub(license="mit", tags="example")
    assert hub.repository(REPO).private
    assert done.oid == hub.repository(REPO).branches["main"]
    assert MODEL_FILES | {"report.json"} <= names(hub)
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names(hub))
    assert "report.html" in names(hub)
    folder = snapshot_download(REPO, cache_dir=tmp_path / "cache")
    card = ModelCard.load(f"{folder}/README.md")
    assert card.data.license == "mit"
    assert {"machine-unlearning", "gradient_ascent", "example"} <= set(card.data.tags)
    assert f'model="{REPO}"' in card.text
    assert all(title in card.text for _, title, _ in run.measured.rows())
    assert json.loads(hub.content(REPO, "report.json"))["models"].keys() == {"original", "unlearned"}
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, run.model.eval()(pixels).logits)
    assert not any((tmp_path / "out").iterdir())
    run.train()
    assert run.measured is None  # it was of another model


def test_the_folder_saved_to_push_holds_no_pickle_and_no_token(tmp_path):
    saved = trainer(tmp_path / "out", hub_token="hf_" + "x" * 34)._save_to_push()
    assert (saved / "model" / "model.safetensors").is_file()
    assert not any(b"x" * 34 in p.read_bytes() or p.suffix == ".bin" for p in saved.rglob("*") if p.is_file())


def test_the_arguments_are_those_of_the_base_class():
    ours, theirs = (inspect.signature(c.push_to_hub).parameters for c in (UnlearningTrainer, transformers.Trainer))
    assert [n for n in theirs if n != "kwargs"] == list(ours)[: len(theirs) - 1]
    ours, theirs = (
        inspect.signature(c.create_model_card).parameters for c in (UnlearningTrainer, transformers.Trainer)
    )
    assert list(ours) == list(theirs)


def test_a_card_takes_the_nine_arguments(tmp_path):
    run = trainer(tmp_path / "out")
    run.create_model_card(
        language="en",
        license="mit",
        tags=["a", "b"],
        model_name="Forgetful",
        finetuned_from="org/vit",
        tasks="image-classification",
        dataset_tags="org/digits",
        dataset="Digits",
        dataset_args="default",
    )
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "language": "en",
        "license": "mit",
        "library_name": "transformers",
        "tags": ["machine-unlearning", "hf_unlearn", "a", "b"],
        "base_model": "org/vit",
        "base_model_relation": "finetune",
        "datasets": "org/digits",
        "pipeline_tag": "image-classification",
    }
    assert "# Forgetful" in card.text


def test_a_push_that_fails_says_so_and_keeps_the_model(hub, tmp_path):
    run = trainer(tmp_path / "out")
    run.train()
    weights = {k: v.clone() for k, v in run.model.state_dict().items()}
    hub.faults[:] = [Fault(403, times=ALWAYS, match="/preupload/")]
    with pytest.raises(PushError, match="no right to write"):
        run.push_to_hub()
    hub.faults.clear()
    run.push_to_hub()
    assert names(hub) >= MODEL_FILES
    assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())


def test_a_push_takes_a_revision_and_can_run_in_the_background(hub, tmp_path):
    run = trainer(tmp_path / "out")
    job = run.push_to_hub(blocking=False, revision="later", private=False)
    assert isinstance(job, Future)
    assert job.result(30).oid == hub.repository(REPO).branches["later"]
    assert names(hub) == set()
    assert not hub.repository(REPO).private


def test_an_adapter_is_pushed_for_the_base_it_came_from(hub, tmp_path, monkeypatch):
    import peft

    api = HfApi()
    api.create_repo("alice/base")
    api.create_commit("alice/base", [CommitOperationAdd("config.json", b"{}")], commit_message="base")
    base = trained("vit")
    base.config._name_or_path = "alice/base"
    base.name_or_path = "alice/base"
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "query"]))
    run = trainer_for("vit", tmp_path / "out", GradientAscent(), model=model, retain=False, hub_model_id=REPO)
    run.push_to_hub()
    assert names(hub) >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert json.loads(hub.content(REPO, "adapter_config.json"))["base_model_name_or_path"] == "alice/base"
    assert ModelCard(hub.content(REPO, "README.md").decode()).data.base_model == "alice/base"


def test_every_save_pushes_the_model_with_a_card_from_the_first_on(hub, tmp_path):
    saving = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True}
    run = trainer(tmp_path / "out", **saving)
    run.train()
    run.push_to_hub()
    repository = hub.repository(REPO)
    assert set(repository.branches) == {"main"}
    steps = [f"Unlearning in progress, step {n}" for n in (1, 2, 3)]
    assert messages(hub) == ["initial commit", *steps, "Unlearned model"]
    first, *others = list(repository.commits)[1:]
    assert names(hub, first) == names(hub) == MODEL_FILES
    assert "An unfinished run" in repository.commits[first]["tree"]["README.md"].data.decode()
    assert "An unfinished run" not in hub.content(REPO, "README.md").decode()
    weights = {repository.commits[c]["tree"]["model.safetensors"].oid for c in (first, *others)}
    assert len(weights) == 3  # the model moved at each step, and not after the last
    assert not list((tmp_path / "out").glob(".push*"))


def test_hub_strategy_end_pushes_nothing_during_the_run(hub, tmp_path):
    run = trainer(tmp_path / "out", push_to_hub=True, hub_strategy="end", save_strategy="steps", save_steps=1)
    run.train()
    assert messages(hub) == ["initial commit"]


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategies_that_would_publish_checkpoints_are_refused(tmp_path, strategy):
    with pytest.raises(ValueError, match=f"`hub_strategy='{strategy}'` would publish checkpoints"):
        arguments(tmp_path, push_to_hub=True, hub_strategy=strategy)


def test_a_push_that_fails_during_a_run_does_not_end_it(hub, tmp_path, caplog):
    run = trainer(tmp_path / "out", push_to_hub=True, save_strategy="steps", save_steps=2)
    hub.faults[:] = [Fault(403, times=ALWAYS, match="/preupload/")]
    run.train()
    assert run.state.global_step == 3
    assert "The model was not pushed during the run: The token has no right to write to alice/vit" in caplog.text
    assert not list((tmp_path / "out").glob(".push*"))


def test_an_invalid_token_is_reported_before_the_run(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(PushError, match=r"does not accept the token \(401\)"):
        trainer(tmp_path / "out", push_to_hub=True)


def test_a_run_that_would_replace_its_original_does_not_start(hub, tmp_path):
    HfApi().create_repo("alice/original")
    model = trained("vit")
    model.config._name_or_path = "alice/original"
    settings = {"push_to_hub": True, "hub_model_id": "alice/original", "model": model}
    with pytest.raises(PushError, match="is the original, which stays"):
        trainer(tmp_path / "out", hub_revision="main", **settings)
    trainer(tmp_path / "out", hub_revision="forgetful", **settings)

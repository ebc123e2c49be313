"""Where the original and the data come from, as a report records it."""

import datasets
import pytest
import transformers

from hf_unlearn import ForgetRequest, JiT
from hf_unlearn.evaluation.report.run_description import data_source, origin
from tests.support.data import pixel_data, text_data
from tests.support.models import build, trained
from tests.support.runs import trainer_for


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


def test_an_original_on_the_hub_is_named_with_its_commit_and_its_license(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch)
    model = transformers.AutoModelForImageClassification.from_pretrained("alice/vit", cache_dir=tmp_path)
    found = {"original": {"id": "alice/vit", "revision": "a" * 40}, "original_card": {"license": "mit"}}
    assert origin(model) == found


def test_among_several_cached_commits_the_loaded_one_is_named(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch, commits=("a" * 40, "b" * 40))
    model = transformers.AutoModelForImageClassification.from_pretrained("alice/vit", cache_dir=tmp_path)
    assert origin(model)["original"] == {"id": "alice/vit", "revision": None}
    assert origin(model, "main")["original"]["revision"] == "a" * 40
    assert origin(model, "b" * 40)["original"]["revision"] == "b" * 40


def test_a_deleted_folder_is_not_taken_for_a_hub_name(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("names", [["bird", "cat"], ["LABEL_0", "LABEL_1"], ["LABEL_0", "cat"]])
def test_classes_are_named_by_the_model_and_never_by_the_data(tmp_path, names):
    """Names that only the data has may be those of persons, and a report is published."""
    model = build("vit", labels=2)
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    feature = datasets.ClassLabel(names=names if "cat" in names else ["Ada", "Bob"])
    rows = pixel_data(24).filter(lambda r: r["label"] < 2).cast_column("label", feature)
    trainer = trainer_for(
        "vit", tmp_path, JiT(num_perturbations=1), model=model, split=ForgetRequest(label=1).split(rows), max_steps=1
    )
    trainer.train()
    run = trainer.report().run
    assert run["forgotten_labels"] == [names[1]]
    assert run.get("classes") == (None if names[1] == "LABEL_1" else names)
    assert "Ada" not in str(run) + str(trainer.measured.to_markdown())

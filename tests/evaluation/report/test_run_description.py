"""Where the original and the data come from, as a report records it."""

from types import SimpleNamespace

import datasets
import pytest
import transformers

from hf_unlearn.evaluation.report.run_description import class_names, data_source, origin
from tests.support.data import text_data
from tests.support.models import trained


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


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        (["bird", "cat"], ["Vogel", "Katze"], ["bird", "cat"]),
        (["LABEL_0", "LABEL_1"], ["bird", "cat"], ["bird", "cat"]),
        (["0", "1"], ["bird", "cat"], ["bird", "cat"]),
        (["LABEL_0", "LABEL_1"], ["0", "1"], ["LABEL_0", "LABEL_1"]),
        (["LABEL_0", "LABEL_1"], ["bird", "cat", "dog"], ["LABEL_0", "LABEL_1"]),  # who knows which is which
        (["LABEL_0", "cat"], ["bird", "cat"], ["LABEL_0", "cat"]),
        (["LABEL_0", "LABEL_1"], None, ["LABEL_0", "LABEL_1"]),
    ],
)
@pytest.mark.parametrize("column", ["label", "kind"])
def test_names_of_classes_are_those_of_the_model_or_else_of_the_data(ours, theirs, names, column):
    config = SimpleNamespace(id2label={str(i): name for i, name in enumerate(ours)})
    feature = datasets.Value("int64") if theirs is None else datasets.ClassLabel(names=theirs)
    data = datasets.Dataset.from_dict({column: [0, 1]}, features=datasets.Features({column: feature}))
    assert class_names(config, None, [{"label": 0}], data, label_column=column) == names

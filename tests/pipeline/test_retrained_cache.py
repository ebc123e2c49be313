"""The cache of retrained models: what is found again, what is not, what is not trusted, and what it tells."""

import json
import os
import shutil
from contextlib import suppress

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_unlearn import Retrain, UnlearningArguments, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.models.snapshot import fingerprints
from hf_unlearn.pipeline import retrained_cache
from hf_unlearn.pipeline.prepare import prepare
from hf_unlearn.pipeline.retrained_cache import (
    VARIABLE,
    Entry,
    cache_folder,
    find_entry,
    key_of,
)
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.pipeline.unlearn import retrain
from tests.support.data import SIZE, image_data, image_processor
from tests.support.fresh_processes import exit_codes, start
from tests.support.models import build, trained
from tests.support.recipes import run_options, save_model_and_data
from tests.support.runs import arguments

FEW = {"train_rows": 24, "train_epochs": 1, "train_batch_size": 8}


@pytest.fixture
def root(tmp_path):
    return save_model_and_data(tmp_path)


@pytest.fixture
def trainings(monkeypatch):
    """The folders of the models that were trained."""
    train, started = UnlearningTrainer.train, []

    def counted(trainer, **keys):
        started.append(trainer.args.output_dir.rsplit("/", 1)[-1])
        return train(trainer, **keys)

    monkeypatch.setattr(UnlearningTrainer, "train", counted)
    return started


def retrained(root, name, seed=0, **keys):
    """Retrain without class 1 in the folder `name`; returns the job, the seconds, and the weights of every retrained model."""
    run = {"model": str(root / "original"), "dataset": str(root / "data"), "forget_class": ["1"], "retrain": True}
    run |= {"retrained_cache": str(root / "cache"), **FEW, **keys}
    args = UnlearningArguments(output_dir=str(root / name), use_cpu=True, disable_tqdm=True, seed=seed)
    job = prepare(RunArguments(**run), args)
    _, seconds = retrain(job)
    return job, seconds, {p.parent.name: load_file(p) for p in sorted((root / name).glob("*/model.safetensors"))}


def entries(root):
    return sorted(p for p in (root / "cache").iterdir() if p.is_dir())


def same(one, other):
    return one.keys() == other.keys() and all(
        tensor.equal(other[name][key]) for name, tensors in one.items() for key, tensor in tensors.items()
    )


@pytest.mark.slow
def test_the_second_run_takes_its_models_from_the_cache(root, trainings, capsys):
    _, _, off = retrained(root, "off", retrain=2, retrained_cache="none")
    first, took, weights = retrained(root, "first", retrain=2)
    assert trainings == ["retrained", "retrained-2"] * 2
    assert same(weights, off)
    capsys.readouterr()
    shutil.copytree(root / "original", root / "elsewhere")
    second, remembered, again = retrained(root, "second", retrain=3, model=str(root / "elsewhere"))
    assert trainings[4:] == ["retrained-3"]
    told = capsys.readouterr().out
    assert told.count("comes from the cache: an earlier run trained it, in ") == 2
    assert "s and 3 steps. `retrained_cache: none` trains it anew." in told
    assert (first.retrained_before, second.retrained_before) == (0, 2)
    assert remembered != took
    third = again.pop("retrained-3")
    assert same(again, weights)
    assert not same({"a": third}, {"a": weights["retrained"]})
    assert len(entries(root)) == 3
    assert {p.name for p in (root / "second" / "retrained").iterdir()} == {
        p.name for p in (root / "off" / "retrained").iterdir() if not p.name.startswith("checkpoint")
    }


@pytest.mark.slow
def test_a_run_says_that_an_earlier_one_trained_its_yardstick(root, monkeypatch, capsys):
    retrained(root, "first")
    monkeypatch.setenv(VARIABLE, str(root / "cache"))
    train = UnlearningTrainer.train
    monkeypatch.setattr(
        UnlearningTrainer,
        "train",
        lambda self, **keys: pytest.fail("retrained") if self.method.name == "retrain" else train(self, **keys),
    )
    few = {**FEW, "test_rows": 24, "max_steps": 1, "seed": 0, "figures": "false", "retrain": "true"}
    assert main(["run", *run_options(root, output_dir=root / "out", **few)]) in (0, 1)
    assert "The yardstick retrained comes from the cache" in capsys.readouterr().out
    found = json.loads((root / "out" / "report.json").read_text())
    assert found["run"]["retraining"]["cached"] == 1
    assert "retrained_cache" not in found["run"]["left_out"]
    assert found["seconds"]["ratio"] == pytest.approx(found["seconds"]["unlearning"] / found["seconds"]["retraining"])
    assert str(root / "cache") not in "".join(p.read_text() for p in (root / "out").glob("*.*") if p.is_file())
    assert "s in an earlier run: " in (root / "out" / "README.md").read_text()


def test_a_damaged_entry_is_trained_again_and_replaced(root, trainings, caplog):
    *_, weights = retrained(root, "first")
    (entry,) = entries(root)
    file = entry / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    *_, again = retrained(root, "second")
    assert "is passed over: model.safetensors does not hold the bytes that were written" in caplog.text
    assert trainings == ["retrained", "retrained"]
    assert same(weights, again)
    retrained(root, "third")
    assert len(trainings) == 2
    assert entries(root) == [entry]


def test_a_training_that_is_resumed_goes_past_the_cache(root, trainings):
    retrained(root, "out", retrained_cache="none")
    retrained(root, "out", resume=True)
    assert not (root / "cache").exists()


def test_a_cache_that_cannot_be_written_ends_no_run(root, caplog):
    (root / "file").touch()
    retrained(root, "out", retrained_cache=str(root / "file" / "cache"))
    assert "`retrained_cache`: no retrained model is looked up or kept, because of " in caplog.text
    with pytest.raises(ValueError, match=r"`retrained_cache='.*file'` is a file"):
        RunArguments(model="m", dataset="d", retrained_cache=str(root / "file"))


def test_the_place_is_that_of_the_option_the_environment_or_hugging_face(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "/from/environment")
    assert str(cache_folder("/named")) == "/named"
    assert str(cache_folder(None)) == "/from/environment"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "hf_unlearn" / "retrained"
    assert cache_folder("none") is None


DATA = image_data(40)


def test_models_that_were_not_used_for_longest_make_room_for_new_ones(tmp_path, monkeypatch):
    cache, own = tmp_path / "cache", tmp_path / "cache" / "my-model"
    own.mkdir(parents=True)
    (own / "model.safetensors").write_bytes(b"a model of the user" * 100_000)
    names = [c * 64 for c in "abcd"]
    for age, name in enumerate(names[:3]):
        Entry(cache / name).store(trained("vit"), 1.0, 1)
        os.utime(cache / name, (age, age))
    size = sum(p.stat().st_size for p in (cache / names[0]).iterdir())
    monkeypatch.setattr(retrained_cache, "MOST_BYTES", int(3.5 * size))
    assert Entry(cache / names[0]).load(build("vit")) is not None  # so the second is the oldest
    Entry(cache / names[3]).store(trained("vit"), 1.0, 1)
    assert sorted(p.name for p in cache.iterdir()) == [names[0], names[2], names[3], "my-model"]
    monkeypatch.setattr(retrained_cache, "MOST_BYTES", 1)
    Entry(cache / names[1]).store(trained("vit"), 1.0, 1)
    assert sorted(p.name for p in cache.iterdir()) == [names[1], "my-model"]  # the newest stays, whatever its size


def trainer_of(folder, retain=None, forget=None, model=None, processor=None, **changes):
    keys = {"num_train_epochs": 1.0, "max_steps": -1, "forget_kind": "samples", **changes}
    return UnlearningTrainer(
        model_init=lambda: build("vit", dropout=0.1) if model is None else model,
        args=arguments(folder, **keys),
        method=Retrain(),
        forget_dataset=DATA.select(range(8)) if forget is None else forget,
        retain_dataset=DATA.select(range(8, 32)) if retain is None else retain,
        processing_class=processor or image_processor(),
    )


def test_a_retraining_does_not_depend_on_the_forget_set(tmp_path):
    """Else two requests that leave the same rows could not share a model."""
    trainers = [
        trainer_of(tmp_path / str(i), forget=DATA.select(rows), check_steps=1, forget_kind=kind)
        for i, (rows, kind) in enumerate([(range(8), "samples"), (range(32, 35), "class")])
    ]
    for trainer in trainers:
        trainer.train()
    assert fingerprints(trainers[0].model) == fingerprints(trainers[1].model)
    keys = {key_of(trainer, fingerprints(trainer.fresh_model()), b"secret") for trainer in trainers}
    assert len(keys) == 1


def other_labels():
    labels = [1 - y if y < 2 else y for y in DATA["label"]]
    return DATA.remove_columns("label").add_column("label", labels).select(range(8, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"retain": DATA.select([9, 8, *range(10, 32)])},
        {"retain": DATA.select(range(8, 31))},
        {"retain": other_labels()},
        {"processor": ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.4] * 3)},
        {"model": trained("vit")},
        {"seed": 1},
        {"learning_rate": 2e-3},
        {"num_train_epochs": 2.0},
        {"weight_decay": 0.1},
        {"per_device_train_batch_size": 4},
        {"lr_scheduler_type": "cosine"},
        {"warmup_steps": 2},
        {"secret": b"other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_other_training_has_another_place(tmp_path, change):
    def key(secret=b"secret", **keys):
        trainer = trainer_of(tmp_path, **keys)
        return key_of(trainer, fingerprints(trainer.fresh_model()), secret)

    assert key() == key()
    assert key(**change) != key()


def test_rows_that_may_be_another_view_each_time_are_not_looked_up(tmp_path):
    rows = DATA.select(range(8, 32)).with_transform(lambda batch: batch)
    assert find_entry(trainer_of(tmp_path, retain=rows), {}, str(tmp_path / "cache")) is None
    assert not (tmp_path / "cache").exists()


def store_and_load(folder):
    """What a run does with an entry, several times over. Returns 1 if it is anything but whole or absent."""
    model, entry = trained("vit"), Entry(folder / "key")
    expected = fingerprints(model)
    for number in range(4):
        reader = build("vit")
        if entry.load(reader) is not None and fingerprints(reader) != expected:
            return 1
        entry.store(model, 2.5, 7)
        if number == 1:  # as if it had been damaged, so that both replace it
            with suppress(FileNotFoundError):
                (entry.folder / "config.json").unlink()
    return 0


@pytest.mark.slow
def test_runs_that_store_and_read_one_entry_at_once_see_it_whole_or_not_at_all(tmp_path):
    children = [start(store_and_load, tmp_path, log=tmp_path / "log") for _ in range(2)]
    assert exit_codes(children) == [0, 0], (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    entry = Entry(tmp_path / "key")
    entry.store(trained("vit"), 2.5, 7)
    assert entry.load(reader := build("vit"))["seconds"] == 2.5
    assert fingerprints(reader) == fingerprints(trained("vit"))
    assert {p.name for p in tmp_path.iterdir()} == {"key", "log"}


def test_an_entry_tells_what_its_training_took_and_nothing_of_the_rows(tmp_path):
    entry = Entry(tmp_path / "key")
    assert entry.load(build("vit")) is None
    entry.store(trained("vit"), 2.5, 7)
    record = entry.load(reader := build("vit"))
    assert fingerprints(reader) == fingerprints(trained("vit"))
    assert record == {"seconds": 2.5, "steps": 7, "files": record["files"]}
    assert record["files"].keys() == {"config.json", "model.safetensors"}

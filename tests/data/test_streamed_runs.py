"""Training and the command line read streams and folders as they read a data set in memory."""

import json
from itertools import islice

import datasets
import pytest
import torch
from datasets import load_dataset

from hf_unlearn import (
    UIB,
    CounterfactualDistillation,
    ForgetRequest,
    GradientDifference,
    JiT,
    MarginalInformation,
    UnlearningTrainer,
)
from hf_unlearn.cli import main
from hf_unlearn.pipeline.data_sets import load_splits
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.data import CLASSES, class_split, image_data, image_processor
from tests.support.models import changed, state, trained
from tests.support.runs import arguments

pytestmark = pytest.mark.slow


def streams(disk):
    plain = load_dataset(str(disk / "parquet"), split="train", streaming=True)
    folder = load_dataset(str(disk / "images"), split="train", streaming=True)
    return {
        "parquet": plain,
        "folder of images": folder,
        "shuffled": plain.shuffle(seed=3, buffer_size=10),
        "interleaved": datasets.interleave_datasets(
            [plain, load_dataset(str(disk / "parquet"), split="test", streaming=True)], probabilities=[0.7, 0.3], seed=1
        ),
    }


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("kind", ["parquet", "folder of images", "shuffled", "interleaved"])
def test_streams_from_disk_are_paired_in_their_own_order(disk, tmp_path, kind):
    def trainer(folder, **changes):
        return UnlearningTrainer(
            trained("vit"),
            arguments(tmp_path / folder, max_steps=5, retain_per_forget=2, update="all", **changes),
            GradientDifference(),
            class_split("vit", n=64).forget,
            streams(disk)[kind],
            processing_class=image_processor(),
        )

    data = trainer("plain").unlearning_data
    items = data.__getitems__([(1, p, p) for p in range(10)])
    served = [row["pixel_values"] for item in items for row in item["retain"]]
    stream = streams(disk)[kind]
    stream.set_epoch(1)
    expected = [data.prepare(row)["pixel_values"] for row in islice(stream, 20)]
    assert all(torch.equal(a, b) for a, b in zip(served, expected, strict=True))
    assert len({tuple(x[:, ::5, ::5].flatten().tolist()) for x in served}) > 15
    runs = [trainer("alone"), trainer("workers", dataloader_num_workers=2)]
    for run in runs:
        run.train()
        assert run.state.global_step == 5  # two epochs
        assert run.outcome.retain_start is not None
    assert not changed(*(state(run.model) for run in runs))
    report = runs[0].report()
    assert report.models["unlearned"].keys() >= {"retain_accuracy", "forget_accuracy"}


@pytest.mark.parametrize(
    "method",
    [JiT(num_perturbations=2), CounterfactualDistillation(anchors=False, relearning_steps=1), MarginalInformation()],
    ids=lambda m: m.name,
)
def test_methods_that_forget_take_a_stream_to_keep(disk, tmp_path, method):
    stream = load_dataset(str(disk / "parquet"), split="train", streaming=True).filter(lambda r: r["label"] != 1)
    split = ForgetRequest(label=1).split(image_data(64))
    trainer = UnlearningTrainer(
        trained("vit"), arguments(tmp_path), method, split.forget, stream, processing_class=image_processor()
    )
    trainer.train()
    assert trainer.outcome.steps == 3
    assert trainer.outcome.retain_start > 0.9


def test_a_method_that_needs_the_length_of_the_retain_set_refuses_a_stream(disk, tmp_path):
    stream = load_dataset(str(disk / "parquet"), split="train", streaming=True)
    parts = trained("vit"), arguments(tmp_path), UIB(), image_data(64).select(range(8)), stream
    with pytest.raises(ValueError, match=r"`method='uib'`.*without `streaming=True`"):
        UnlearningTrainer(*parts, processing_class=image_processor()).train()


def run_words(disk, tmp_path, kind, *more):
    trained("vit").save_pretrained(tmp_path / "original")
    image_processor().save_pretrained(tmp_path / "original")
    keys = {
        "model": tmp_path / "original",
        "dataset": disk / kind,
        "method": "gradient_difference",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": "true",
        "disable_tqdm": "true",
        "figures": "false",
    }
    return ["run", *(str(w) for k, v in keys.items() for w in (f"--{k}", v)), *more]


@pytest.mark.parametrize(
    ("kind", "name", "streaming"),
    [
        ("parquet", "1", "false"),
        ("parquet", "1", "true"),
        ("images", "class-1", "false"),
        ("images", "class-1", "true"),
    ],
)
def test_folders_on_disk_are_read_by_the_command_line(disk, tmp_path, capsys, kind, name, streaming):
    if kind == "images":  # named after the folders there
        model = trained("vit")
        model.config.label2id = {f"class-{i}": i for i in range(CLASSES)}
        model.config.id2label = {i: n for n, i in model.config.label2id.items()}
    words = run_words(disk, tmp_path, kind, "--forget_class", name, "--streaming", streaming)
    if kind == "images":
        model.save_pretrained(tmp_path / "original")
    assert main(words) in (0, 1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["rows"] == {"forget": 24, "retain": 72, "test": 77}  # a fifth of 96 is for the stop
    assert report["outcome"]["steps"] == 2
    assert "unlearned" in capsys.readouterr().out
    left = [f for f in (tmp_path / "out").rglob("*") if f.is_file() and f.suffix in (".arrow", ".parquet", ".png")]
    assert not left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--forget_fraction", "0.1"], "`streaming` and `forget_fraction`"),
        (["--forget_class", "1", "--retrain", "true"], "`streaming` and `retrain`"),
        (["--forget_class", "1", "--train_rows", "5"], "`streaming` and `train_rows`"),
        (["--forget_class", "9"], "`forget_class='9'`"),
        (["--forget_column", "person", "--forget_values", "u"], "`forget_column='person'`"),
        (["--forget_column", "user", "--forget_values", "user-1", "nobody"], "`forget_values`: 1 of 2 are in no row"),
        (["--forget_class", "1", "--train_split", "trian"], "`train_split='trian'`"),
    ],
)
def test_options_that_a_stream_lacks_are_refused_before_the_model_is_read(disk, tmp_path, capsys, words, message):
    words = run_words(disk, tmp_path, "parquet", "--streaming", "true", *words)
    (tmp_path / "original" / "model.safetensors").write_bytes(b"no model")
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_test_and_validation_rows_of_a_stream_are_in_memory(disk):
    run = RunArguments(model="m", dataset=str(disk / "parquet"), streaming=True, test_rows=20)
    train, test, validation = load_splits(run, validate=True)
    assert not hasattr(train, "__len__")
    assert (len(test), len(validation)) == (16, 4)
    users = [*test["user"], *validation["user"]]
    assert len(set(users)) == 20
    assert set(users) <= set(load_dataset(str(disk / "parquet"), split="test")["user"])

"""Streams, folders, workers and sets too large for the memory: they are read as small ones are, and nothing is left behind."""

import gc
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
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
from hf_unlearn.data import overlap
from hf_unlearn.data.overlap import check_overlap
from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.data.sampling import EpochSampler
from hf_unlearn.data.streams import split_stream
from hf_unlearn.models.prediction import predict
from hf_unlearn.pipeline.data_sets import load_splits
from hf_unlearn.pipeline.run_arguments import RunArguments
from hf_unlearn.training.verification import mean_total_variation
from hf_unlearn.utils import large_tensors as tables
from hf_unlearn.utils.large_tensors import Collector, chunks, new_table
from tests.support.data import CLASSES, class_split, image_data, image_processor, pixel_data, text_data
from tests.support.models import changed, state, trained
from tests.support.runs import arguments, trainer_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def private():
    """Anonymous memory of this process, in bytes."""
    gc.collect()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The same images as two parquet files a split, and as a folder of images; sorted by class, as folders are."""
    root = tmp_path_factory.mktemp("disk")
    (root / "parquet").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).sort("label")
        for part in range(2):
            data.shard(2, part, contiguous=True).to_parquet(root / "parquet" / f"{split}-{part}.parquet")
        for i, row in enumerate(data):
            folder = root / "images" / split / f"class-{row['label']}"
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i:03}.png")
    return root


@pytest.fixture(autouse=True)
def data_cache(monkeypatch, tmp_path_factory):
    """What `load_dataset` builds goes to a folder of these tests; a stream that is left unread does not sleep."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


# --- streams and folders ----------------------------------------------------------------------------------------------


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


def test_what_needs_the_length_of_the_retain_set_says_so(disk, tmp_path):
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
        (["--forget_class", "9"], "`label='9'`"),
        (["--forget_column", "person", "--forget_values", "u"], "`column='person'`"),
        (["--forget_column", "user", "--forget_values", "user-1", "nobody"], "`values`: 1 of 2 are in no row"),
        (["--forget_class", "1", "--train_split", "trian"], "`train_split='trian'`"),
    ],
)
def test_what_a_stream_cannot_do_is_said_before_the_model_is_read(disk, tmp_path, capsys, words, message):
    words = run_words(disk, tmp_path, "parquet", "--streaming", "true", *words)
    (tmp_path / "original" / "model.safetensors").write_bytes(b"no model")
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_stream_is_split_as_the_whole_set_is(disk):
    whole = load_dataset(str(disk / "parquet"), split="train")
    for request in (
        ForgetRequest(label="2"),
        ForgetRequest(column="user", values=["user-3", "user-50", "user-7"]),
        ForgetRequest(label=[1, 3], column="user", values=["user-3", "user-50", "user-5"]),
    ):
        expected, split = request.split(whole), split_stream(request, streams(disk)["parquet"])
        assert split.forget_indices.tolist() == expected.forget_indices.tolist()
        assert split.forget["user"][:] == expected.forget["user"][:]
        assert split.forget[0]["image"].size == (16, 16)
        first = [row["user"] for row in split.retain]
        split.retain.set_epoch(1)
        second = [row["user"] for row in split.retain]
        assert sorted(first) == sorted(second) == sorted(expected.retain["user"])
        assert first != second
    with pytest.raises(ValueError, match="selects all 96 rows"):
        split_stream(ForgetRequest(label=[0, 1, 2, 3]), streams(disk)["parquet"])
    with pytest.raises(ValueError, match="by `label` and by `column`"):
        split_stream(ForgetRequest(indices=[1]), streams(disk)["parquet"])


def test_rows_are_not_decoded_to_be_split(disk, monkeypatch):
    stream = streams(disk)["parquet"]
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("decoded"))
    assert len(split_stream(ForgetRequest(label=1), stream).forget) == 24


def test_splits_of_a_stream_are_held_where_they_are_measured_on(disk):
    run = RunArguments(model="m", dataset=str(disk / "parquet"), streaming=True, test_rows=20)
    train, test, validation = load_splits(run, validate=True)
    assert not hasattr(train, "__len__")
    assert (len(test), len(validation)) == (16, 4)
    users = [*test["user"], *validation["user"]]
    assert len(set(users)) == 20
    assert set(users) <= set(load_dataset(str(disk / "parquet"), split="test")["user"])


# --- workers ----------------------------------------------------------------------------------------------------------


def worked(folder, retain=None, method=None, **changes):
    """Nine steps, three epochs, with the draws of noise and of retain rows."""
    split = class_split("vit", n=96)
    trainer = UnlearningTrainer(
        trained("vit"),
        arguments(folder, max_steps=9, update="all", **changes),
        method or GradientDifference(),
        split.forget,
        split.retain if retain is None else retain(split.retain),
        processing_class=image_processor(),
        compute_metrics=lambda p: {},  # cannot be sent to a process
    )
    trainer.train()
    return trainer


def shuffled_stream(data):
    return data.to_iterable_dataset(num_shards=3).shuffle(seed=3, buffer_size=10)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("retain", [None, shuffled_stream], ids=["map", "stream"])
def test_workers_change_nothing(tmp_path, retain):
    alone = worked(tmp_path / "0", retain)
    for i, changes in enumerate(({}, {"dataloader_prefetch_factor": 4, "gradient_accumulation_steps": 1})):
        run = worked(tmp_path / f"w{i}", retain, dataloader_num_workers=2, **changes)
        assert not changed(state(alone.model), state(run.model))
    assert changed(state(trained("vit")), state(alone.model))
    assert not alone.args.dataloader_pin_memory


@pytest.mark.slow
@pytest.mark.parametrize("retain", [None, shuffled_stream], ids=["map", "stream"])
def test_workers_of_fresh_processes_change_nothing(tmp_path, retain):
    if "dataloader_multiprocessing_context" not in arguments(tmp_path).to_dict():
        pytest.skip("this version of transformers starts workers in the platform's own way")
    changes = {"dataloader_num_workers": 1}
    spawned = worked(tmp_path / "1", retain, dataloader_multiprocessing_context="spawn", **changes)
    assert not changed(state(worked(tmp_path / "0", retain).model), state(spawned.model))


def test_workers_are_not_sent_the_rows_kept_in_memory():
    rows = PreparedRows([torch.zeros(1000)] * 50, lambda x: {"pixel_values": x}, cache_bytes=10**6)
    list(rows)
    assert len(rows._cache) == 50
    copy = PreparedRows.__new__(PreparedRows)
    copy.__dict__.update(rows.__getstate__())
    assert not copy._cache
    list(copy)
    assert len(copy._cache) == 50
    assert len(rows._cache) == 50


# --- tables that are too large for the memory -------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(tables, "MEMORY_BYTES", 64)
    monkeypatch.setattr(tables, "CHUNK", 12)


def test_large_tables_are_files_without_a_name(small_memory, tmp_path):
    values = torch.randn(30, 5)
    collector = Collector(30, tmp_path)
    for part in values.split(7):
        collector.add(part)
    table = collector.table()
    assert torch.equal(table, values)
    assert not list(tmp_path.iterdir())
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped
    assert all("(deleted)" in line for line in mapped)
    assert [len(a) for a, _ in chunks(table, values)] == [2] * 15
    other = torch.randn(30, 5)
    expected = 0.5 * (values.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean().item()
    assert mean_total_variation(table, other) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(table[torch.tensor([3, 29])], values[[3, 29]])
    whole = new_table(3, 7, tmp_path, torch.long)
    assert whole.dtype == torch.long
    assert not whole.any()


@pytest.mark.parametrize("method", [JiT, CounterfactualDistillation, UIB], ids=lambda m: m.name)
def test_a_run_is_the_same_with_its_outputs_on_disk(tmp_path, monkeypatch, method):
    split = class_split("vit", n=64)

    def run(folder):
        made = method(num_perturbations=2, anchors=False) if method is JiT else method()
        trainer = trainer_for("vit", tmp_path / folder, made, split=split, probe_size=4, check_steps=1)
        trainer.train()
        outputs = [trainer.reference.logits, trainer.monitor.forget_logits()]
        return trainer, predict(trainer.model, split.forget, trainer.processor)[0], outputs

    plain, logits, _ = run("memory")
    monkeypatch.setattr(tables, "MEMORY_BYTES", 64)
    monkeypatch.setattr(tables, "CHUNK", 12)
    large, same, outputs = run("disk")
    assert sum(str(tmp_path / "disk") in line for line in Path("/proc/self/maps").read_text().splitlines()) >= 2
    assert not changed(state(plain.model), state(large.model))
    assert torch.equal(logits, same)
    assert large.outcome.path == plain.outcome.path
    assert large.outcome.forget_end == plain.outcome.forget_end
    assert large.outcome.outputs_moved == pytest.approx(plain.outcome.outputs_moved, rel=1e-6)
    assert not [f for f in (tmp_path / "disk").rglob("*") if f.is_file()]
    del large, outputs
    gc.collect()
    assert str(tmp_path / "disk") not in Path("/proc/self/maps").read_text()


def test_nan_of_a_table_is_found_wherever_it_is(small_memory, tmp_path):
    model = trained("vit")
    with torch.no_grad():
        model.classifier.bias[2] = torch.nan
    split = class_split("vit")
    trainer = trainer_for("vit", tmp_path, JiT(), model=model, split=split)
    with pytest.raises(ValueError, match="`model` gives NaN"):
        trainer.train()


COUNTED = """
import torch
from pathlib import Path
from hf_unlearn.data.pairs import PreparedRows

def private():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])

def prepare(i):
    return {"input_ids": torch.zeros(4, dtype=torch.long), "labels": torch.tensor(0)}

rows = PreparedRows(range(60_000), prepare, cache_bytes=2**24)
before = private()
for _ in rows:
    pass
print((private() - before) / 2**24)
"""


def test_rows_kept_in_memory_are_counted_as_they_are():
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True, timeout=120)
    assert 0.6 < float(done.stdout) < 1.5


# --- rows in both sets ------------------------------------------------------------------------------------------------


def with_copies(data, copies):
    """Rows 0..n-1 of `data`, and n.. with the first `copies` of them again."""
    half = len(data) // 2
    rest = data.select([*range(copies), *range(half + copies, 2 * half)])
    return data.select(range(half)), rest


@pytest.mark.parametrize("kind", ["text", "pixels", "images", "numpy pixels", "nested"])
def test_common_rows_are_counted_in_every_kind_of_column(kind, caplog):
    data = {
        "text": lambda: text_data(80).add_column("row", range(80)),
        "pixels": lambda: pixel_data(80),
        "numpy pixels": lambda: pixel_data(80).with_format("numpy"),
        "images": lambda: image_data(80),
        "nested": lambda: datasets.Dataset.from_dict(
            {
                "ids": [[i, i + 1][: 1 + i % 2] for i in range(80)],
                "info": [{"a": None if i % 3 else float(i), "b": [str(i)]} for i in range(80)],
                "fixed": np.arange(320).reshape(80, 4).tolist(),
            },
            features=datasets.Features(
                {
                    "ids": datasets.List(datasets.Value("int32")),
                    "info": {"a": datasets.Value("float32"), "b": datasets.List(datasets.Value("string"))},
                    "fixed": datasets.List(datasets.Value("int64"), length=4),
                }
            ),
        ),
    }[kind]()
    for shape in (lambda d: d, lambda d: d.shuffle(seed=1)):
        for copies, found in ((3, "3 of 40"), (0, None)):
            caplog.clear()
            check_overlap(*map(shape, with_copies(data, copies)))
            assert (found is None and not caplog.text) or f"{found} rows to forget" in caplog.text
        with pytest.raises(ValueError, match="overlap: 40 of 40"):
            check_overlap(data.select(range(40)), shape(data))


def test_rows_that_differ_in_one_number_are_not_the_same(caplog):
    values = pixel_data(8).with_format("numpy")["pixel_values"][:]
    other = values.copy()
    other[:, 2, 7, 3] = np.nextafter(other[:, 2, 7, 3], np.float32(2))
    features = datasets.Features({"pixel_values": datasets.Array3D((3, 16, 16), "float32")})
    check_overlap(*(datasets.Dataset.from_dict({"pixel_values": v}, features=features) for v in (values, other)))
    assert not caplog.text


@pytest.mark.parametrize("copies", [0, 100, 6_000, 10_000])
def test_common_rows_of_large_sets_are_estimated_from_a_sample(copies, caplog):
    data = datasets.Dataset.from_dict({"a": np.arange(30_000)})
    forget, retain = data.select(range(10_000)), data.select(range(10_000 - copies, 30_000 - copies))
    if copies > 5_000:
        with pytest.raises(ValueError, match=r"overlap: about \d+ of 10000") as error:
            check_overlap(forget, retain, limit=4_000)
        text = str(error.value)
    else:
        check_overlap(forget, retain, limit=4_000)
        text = caplog.text
    if copies:
        estimate = int(text.split("about ")[1].split()[0])
        spread = 4 * (copies / (0.4 * 0.2)) ** 0.5
        assert abs(estimate - copies) < spread
    else:
        assert not text


def test_heavy_rows_are_read_by_their_bytes(monkeypatch):
    monkeypatch.setattr(overlap, "BYTES", 2**23)
    data = datasets.Dataset.from_dict({"a": [[i] * 1000 for i in range(4_000)]})
    read = []
    monkeypatch.setattr(
        "hf_unlearn.data.overlap._cells",
        lambda a, real=sys.modules["hf_unlearn.data.overlap"]._cells: read.append(len(a)) or real(a),
    )
    with pytest.raises(ValueError, match="overlap: about"):
        check_overlap(data, data)
    assert 0 < sum(read) < 2 * 2**23 / 8_000


def test_an_epoch_of_a_million_rows_takes_eight_bytes_a_row():
    sampler, before, highest = EpochSampler(1_000_000), private(), 0
    for _, position, _ in sampler:
        if position % 250_000 == 0:
            highest = max(highest, private())
    assert position == 999_999
    assert highest - before < 16 * 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_memory_is_flat_in_the_number_of_rows(tmp_path, kind):
    script = ROOT / "recipes" / "benchmarks" / "big_inputs.py"
    command = [sys.executable, str(script), "parts", "--rows", "200000", "--kind", kind, "--folder", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    rows_mib = 200_000 / 2**20
    assert found["request and split"]["peak_mib"] < 160 * rows_mib
    assert found["checks"]["peak_mib"] < 40
    assert found["sampler, one epoch"]["peak_mib"] < 16 * rows_mib
    assert found["20,000 items"]["peak_mib"] < 128
    assert not list(tmp_path.iterdir())

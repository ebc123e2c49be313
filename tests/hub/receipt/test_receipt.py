"""Receipts follow their schema, contain nothing that names a row, and are written by runs."""

import hashlib
import hmac
import json
import platform
import re
import shutil
import stat
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import datasets
import jsonschema
import pytest
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

import hf_unlearn
from hf_unlearn import FeatureInformation, ForgetRequest, JiT, Receipt, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.hub.receipt import RECEIPT, seal, write_receipt
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows
from hf_unlearn.hub.receipt.merkle_tree import MerkleTree
from hf_unlearn.hub.receipt.row_digest import PREFIX, row_digest, row_digests
from tests.support.data import class_split, image_data, image_processor, text_data, tokenizer
from tests.support.models import trained
from tests.support.receipts import receipt_for, valid, verify
from tests.support.runs import arguments, trainer_for

HOSTILE = (
    "<img src=x onerror=alert(1)>\n# **x** [a](https://evil.example/u) www.evil.example @someone `b` | \x1b[31m"
    + ("x" * 10_000)
)


def test_the_receipt_follows_its_schema_and_wrong_ones_do_not(published):
    receipt = valid(json.loads((published / RECEIPT).read_text()))
    assert (receipt["started"], receipt["ended"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:05:35+00:00")
    assert receipt["seeds"] == {"seed": 7, "data_seed": None}
    assert receipt["forgotten_rows"]["rows"] == 12
    for change in (
        {"rows": ["text"]},
        {"digest": "0" * 63},
        {"started": "yesterday"},
        {"forgotten_rows": {**receipt["forgotten_rows"], "leaves": []}},
        {"request": {**receipt["request"], "values": ["u123"]}},
        {"base_model": {**receipt["base_model"], "weights": {"/home/me/model.safetensors": "0" * 64}}},
        {"base_model": {**receipt["base_model"], "weights": {"jane.safetensors": "0" * 64}}},
        {"method": {**receipt["method"], "clamp": "x" * 97}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            valid({**receipt, **change})


def test_the_version_of_the_library_is_named_without_an_installation_too(monkeypatch):
    def none(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", none)
    receipt, _ = receipt_for(text_data(2))
    assert receipt["versions"] == {"python": platform.python_version(), "hf_unlearn": hf_unlearn.__version__}


def leaves_of(value, place=()):
    """(place, value) of everything in a JSON document."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves_of(inner, (*place, key))
    else:
        yield place, value


KEYED = {("forgotten_rows", "root"), ("data", "sets", "retain", "digest"), ("digest",)}


def differing(first, second):
    first, second = dict(leaves_of(first)), dict(leaves_of(second))
    assert first.keys() == second.keys()
    return {place for place in first if first[place] != second[place]}


def test_two_requests_that_differ_in_a_row_look_like_one_request_made_twice(tmp_path):
    """Only keyed values differ, and they differ in the same way if every row is equal, so they reveal no row."""
    data = text_data(40)
    retain, forget, other = data.select(range(20)), data.select(range(20, 30)), data.select(range(21, 31))

    def write(name, *sides, key=None):
        (tmp_path / name).mkdir()
        return write_receipt(tmp_path / name, receipt_for(*sides, key=key)[0])

    first, again, changed = write("a", forget, retain), write("b", forget, retain), write("c", other, retain)
    assert differing(first, again) == differing(first, changed) == KEYED
    # Under one key, the root depends on the rows of the request, and the other value on the retain set.
    key = bytes(range(32))
    one, same, two = (write(n, f, retain, key=key) for n, f in (("d", forget), ("e", forget), ("f", other)))
    assert not differing(one, same)
    assert differing(one, two) == {("forgotten_rows", "root"), ("digest",)}
    three = write("g", forget, data.select(range(1, 21)), key=key)
    assert differing(one, three) == KEYED - {("forgotten_rows", "root")}


def test_no_value_in_the_receipt_can_be_computed_from_rows(tmp_path):
    """An attacker who has the whole data set and the receipt tries everything that needs no key."""
    data = text_data(24)
    forget, retain = data.select(range(3)), data.select(range(3, 24))
    receipt = write_receipt(tmp_path, receipt_for(forget, retain)[0])
    published = {v for _, v in leaves_of(receipt) if isinstance(v, str)}
    rows = [row_digest(row) for row in data]
    messages = set(rows)
    for row in data:
        for text in (json.dumps(row), json.dumps(row, sort_keys=True), row["text"], str(row)):
            messages |= {text.encode(), PREFIX + text.encode()}
    for part in (rows[:3], rows[3:], rows):
        for order in (part, sorted(part)):
            messages |= {b"".join(order), MerkleTree(order).root, hashlib.sha256(b"".join(order)).digest()}
    known = [s.encode() for s in published] + [bytes.fromhex(s) for s in published if re.fullmatch("[0-9a-f]{32,}", s)]
    keys = {b"", bytes(32), b"row", b"set", b"retain", *known}
    guesses = set()
    for message in messages:
        for name in ("sha256", "sha1", "md5", "sha512", "blake2b", "sha3_256"):
            guesses.add(hashlib.new(name, message).hexdigest())
        guesses |= {hmac.digest(key, message, "sha256").hex() for key in keys}
        guesses.add(message.hex())
    keyed = [[hmac.digest(k, row, "sha256") for row in rows[:3]] for k in keys]
    guesses |= {MerkleTree(sorted(leaves)).root.hex() for leaves in keyed}
    assert not guesses & published
    assert len(published & {receipt["forgotten_rows"]["root"], receipt["data"]["sets"]["retain"]["digest"]}) == 2
    text = (tmp_path / RECEIPT).read_text()
    assert not any(row["text"] in text for row in data)


@pytest.mark.parametrize("place", ["config", "split", "revision"])
def test_hostile_names_are_inert_and_short(tmp_path, place):
    data = {"id": HOSTILE, "revision": "main", "config": None, "split": "train", "sets": {}, place: HOSTILE}
    method = {"method": HOSTILE, "attribute": HOSTILE, HOSTILE: [HOSTILE, Path(HOSTILE)], "object": object()}
    receipt, _ = receipt_for(text_data(3), data=data, method=method, outcome={"stopped": HOSTILE, "gap": float("nan")})
    receipt = valid(write_receipt(tmp_path, receipt))
    text = (tmp_path / RECEIPT).read_text()
    for mark in ("<img", "](", "**", "://", "www.", "@", "`", "\x1b", "\\u001b", "| ", "x" * 100):
        assert mark not in text
    assert receipt["data"]["id"] == "local"
    assert receipt["outcome"]["gap"] is None


def test_files_of_the_original_with_names_of_their_own_are_numbered(tmp_path):
    usual = ["model.safetensors", "model-00001-of-00002.safetensors", "adapter_model.safetensors"]
    weights = {name: f"{i:064}" for i, name in enumerate([*usual, "user-9.safetensors", "<b>jane.safetensors"])}
    receipt, _ = receipt_for(
        text_data(3), base_model={"id": None, "revision": None, "weights": weights, "tensors": "0" * 32}
    )
    shown = valid(write_receipt(tmp_path, receipt))["base_model"]["weights"]
    numbered = {"weights-1.safetensors": f"{4:064}", "weights-2.safetensors": f"{3:064}"}
    assert shown == {name: weights[name] for name in usual} | numbered


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the command line by user ids, over a data set with hostile names."""
    root = tmp_path_factory.mktemp("secret-place")
    column = HOSTILE.replace("x" * 10_000, "y" * 200)
    trained("vit").save_pretrained(root / "original")
    image_processor().save_pretrained(root / "original")
    (root / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).rename_column("user", column)
        data.to_parquet(root / "data" / f"{split}.parquet")
    (root / "ids.txt").write_text("user-5\nuser-9\nuser-9\n")
    keys = {
        "model": root / "original",
        "dataset": root / "data",
        "forget_column": column,
        "forget_ids_file": root / "ids.txt",
        "output_dir": root / "out",
        "use_cpu": "true",
        "disable_tqdm": "true",
        "figures": "false",
        "max_steps": "1",
        "run_name": "for-jane",
    }
    code = main(["run", "--method", "jit", *(str(w) for k, v in keys.items() for w in (f"--{k}", v))])
    assert code in (0, 1)
    return root


def test_a_run_writes_its_receipt_and_nothing_that_names_rows_or_places(finished):
    out = finished / "out"
    text = (out / RECEIPT).read_text()
    receipt = valid(json.loads(text))
    for word in (
        "user-5",
        "user-",
        "secret-place",
        "ids.txt",
        "for-jane",
        "<img",
        "www.",
        "yyy",
        "/tmp",
        str(finished),
    ):
        assert word not in text, word
    assert receipt["request"]["kind"] == "samples"
    assert receipt["request"]["selected_by"] == ["column", "ids_file"]
    assert receipt["forgotten_rows"]["rows"] == 2
    assert receipt["base_model"]["id"] == receipt["data"]["id"] == "local"
    assert receipt["base_model"]["weights"] == {
        "model.safetensors": hashlib.sha256((finished / "original" / "model.safetensors").read_bytes()).hexdigest()
    }
    assert receipt["method"]["method"] == "jit"
    assert receipt["arguments"]["max_steps"] == 1
    assert {"model/model.safetensors", "model/config.json", "report.json", "report.md"} <= receipt["files"].keys()
    assert not any("private" in name or "checkpoint" in name for name in receipt["files"])
    report = json.loads((out / "report.json").read_text())
    assert receipt["metrics"] == {name: report[name] for name in ("models", "gap", "intervals")}
    started, ended = (datetime.fromisoformat(receipt[k]) for k in ("started", "ended"))
    assert timedelta(0) <= ended - started < timedelta(minutes=5)
    assert abs(datetime.now(UTC) - ended) < timedelta(hours=1)


def test_the_receipt_of_a_run_is_verified_with_its_rows_and_published(finished, tmp_path, capsys):

    out, private = finished / "out", finished / "out" / PRIVATE_FOLDER / PRIVATE_FILE
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert verify(out, "--private", private) == 0
    assert "covers README.md, figures, model" in capsys.readouterr().out
    train = datasets.Dataset.from_parquet(str(finished / "data" / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    forgotten = ForgottenRows.load(private)
    assert [i for i, digest in enumerate(row_digests(train)) if forgotten.contains(digest)] == [5, 9]
    (tmp_path / "rows").mkdir()
    train.select([9]).to_parquet(tmp_path / "rows" / "train.parquet")
    assert verify(out, "--private", private, "--rows", f"{tmp_path / 'rows'}") == 0
    (out / "README.md").write_text("# Written later\n")
    assert main(["receipt", "seal", "--folder", str(out)]) == 2  # the key is in it
    assert main(["receipt", "seal", "--folder", str(out), "--run-folder"]) == 0
    assert verify(out, "--private", private) == 0
    assert "README.md" in json.loads((out / RECEIPT).read_text())["files"]
    (out / "model.safetensors").write_bytes(b"x")  # beside what is covered, but loaded
    assert verify(out) == 1
    (out / "model.safetensors").unlink()
    for name in ("report.json", RECEIPT):
        (tmp_path / "hub").mkdir(exist_ok=True)
        shutil.copy(out / name, tmp_path / "hub")
    shutil.copytree(out / "model", tmp_path / "hub", dirs_exist_ok=True)
    sealed = valid(seal(tmp_path / "hub"))
    assert sealed["covers"] is None
    assert {"config.json", "model.safetensors", "report.json"} <= sealed["files"].keys()
    assert verify(tmp_path / "hub", "--private", private) == 0


def test_a_second_request_names_the_receipt_before_it(tmp_path):
    trainer = trainer_for("bert", tmp_path / "run", JiT(), max_steps=1)
    with pytest.raises(RuntimeError, match="train"):
        Receipt.from_trainer(trainer)
    trainer.train()
    split = class_split("bert")
    receipt = Receipt.from_trainer(trainer, request=split.request, request_id="case-1")
    assert receipt.public["request"] == {"id": "case-1", "kind": "class", "classes": [1], "selected_by": ["label"]}
    trainer.model.save_pretrained(tmp_path / "first")
    written = receipt.save(tmp_path / "first", private=tmp_path / "home" / PRIVATE_FILE)
    assert valid(written)["files"].keys() == {"config.json", "model.safetensors"}
    assert written["previous"] is None
    assert [receipt.forgotten.contains(row) for row in split.forget] == [True] * len(split.forget)
    assert not any(receipt.forgotten.contains(row) for row in split.retain)
    second = Receipt.from_trainer(trainer, model=str(tmp_path / "first")).public
    assert second["previous"] == hashlib.sha256((tmp_path / "first" / RECEIPT).read_bytes()).hexdigest()
    assert second["base_model"]["weights"].keys() == {"model.safetensors"}


def test_a_folder_named_like_a_hub_id_is_local_in_another_working_directory_too(tmp_path, monkeypatch):
    trained("bert").save_pretrained(tmp_path / "here" / "jane" / "secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    model = AutoModelForSequenceClassification.from_pretrained("jane/secret")
    trainer = trainer_for("bert", tmp_path / "run", JiT(), model=model, max_steps=1)
    trainer.train()
    monkeypatch.chdir(tmp_path)
    for name in (None, "jane/secret"):
        base = Receipt.from_trainer(trainer, model=name).public["base_model"]
        assert (base["id"], base["revision"]) == ("local", None)
    commit = "a" * 40
    folder = tmp_path / "cache" / "models--jane--secret"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    trained("bert").save_pretrained(folder / "snapshots" / commit)
    base = Receipt.from_trainer(trainer).public["base_model"]
    assert (base["id"], base["revision"]) == ("jane/secret", commit)


def test_an_attribute_has_a_receipt_without_rows(tmp_path):

    trainer = UnlearningTrainer(
        model=trained("bert"),
        args=arguments(tmp_path / "run", forget_kind="auto"),
        method=FeatureInformation(attribute="group"),
        retain_dataset=text_data(40),
        processing_class=tokenizer(),
    )
    trainer.train()
    (tmp_path / "hub").mkdir()
    receipt = Receipt.from_trainer(trainer).save(tmp_path / "hub", tmp_path / "home" / PRIVATE_FILE)
    assert valid(receipt)["request"]["kind"] == "attribute"
    assert receipt["method"]["attribute"] == "group"
    assert receipt["forgotten_rows"] == {
        **receipt["forgotten_rows"],
        "rows": 0,
        "root": hashlib.sha256(b"").hexdigest(),
    }
    assert receipt["data"]["sets"]["retain"]["rows"] == 40


@pytest.mark.slow
def test_an_adapter_is_among_the_arguments(tmp_path):
    split = class_split("bert")
    trainer = UnlearningTrainer(
        model=trained("bert"),
        args=arguments(tmp_path / "run", max_steps=1),
        method=JiT(),
        forget_dataset=split.forget,
        processing_class=tokenizer(),
        peft_config="lora",
    )
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "hub")
    receipt = valid(Receipt.from_trainer(trainer).save(tmp_path / "hub", tmp_path / "home" / PRIVATE_FILE))
    (adapter,) = receipt["arguments"]["adapters"].values()
    assert adapter["peft_type"] == "LORA"
    assert adapter["target_modules"] == sorted(trainer.model.peft_config["default"].target_modules)
    assert "adapter_model.safetensors" in receipt["files"]


def test_the_random_draw_of_a_request_is_not_published(tmp_path):
    """The seed and the share of a draw from a public data set would name the rows."""
    split = ForgetRequest(fraction=0.3, seed=987654).split(text_data(40))
    trainer = trainer_for("bert", tmp_path / "run", JiT(), split=split, max_steps=1, forget_kind="samples")
    trainer.train()
    public = Receipt.from_trainer(trainer, request=split.request).public
    assert public["request"]["selected_by"] == ["fraction"]
    assert not {987654, 0.3} & {v for _, v in leaves_of(public)}

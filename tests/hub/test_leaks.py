"""Nothing of the rows to forget is in what a run leaves behind or prints."""

import base64
import hashlib
import os
import random
import re
import secrets
import zlib
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from hf_unlearn import ForgetRequest, GradientAscent
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report.run_description import class_names
from hf_unlearn.hub.card.evaluation_card import write_card
from hf_unlearn.models.pretrained import save_model
from tests.support.data import CLASSES, data_for, image_data, image_processor, pixel_data, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import trainer_for

pytestmark = pytest.mark.slow


USERS = 12
REQUESTS = int(os.environ.get("HF_UNLEARN_REQUESTS", "10"))  # one of each kind; 50 for a thorough look


def marked(arch, n=48):
    """Rows with words, ids and names that nobody could guess, and these as needles to search for."""
    rng = random.Random(7)
    marks = {k: [f"zq{secrets.token_hex(8)}" for _ in range(n)] for k in ("word", "id", "note")}
    users = [f"zu{secrets.token_hex(8)}" for _ in range(USERS)]
    columns = {"user": [users[i % USERS] for i in range(n)], "id": marks["id"], "note": marks["note"]}
    needles = {w.encode() for words in marks.values() for w in words} | {u.encode() for u in users}
    if arch == "bert":
        plain = text_data(n)
        texts = [f"{t} {w}" for t, w in zip(plain["text"], marks["word"], strict=True)]
        data = datasets.Dataset.from_dict(
            {"text": texts, "label": plain["label"]}, features=plain.select_columns(["text", "label"]).features
        )
    else:
        data = pixel_data(n).remove_columns("group")
        for row in np.asarray(data["pixel_values"], np.float32):
            small = ((row.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
            for raw in (row.tobytes(), small.tobytes()):
                needles |= {raw, base64.b64encode(raw)[8:72]}
                needles |= {
                    h(raw).hexdigest().encode() for h in (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.blake2b)
                }
                needles |= {hashlib.blake2b(raw, digest_size=16).hexdigest().encode()}
    for name, values in columns.items():
        data = data.add_column(name, values)
    return SimpleNamespace(data=data, users=users, ids=marks["id"], notes=marks["note"], needles=needles, rng=rng)


def requests(rows, folder, count):
    """Random requests of every kind."""
    rng, n = rows.rng, len(rows.data)
    for i in range(count):
        users, ids, notes = rng.sample(rows.users, 2), rng.sample(rows.ids, 6), set(rng.sample(rows.notes, 7))
        file = folder / f"{users[0]}-{i}.txt"
        file.write_text("\n".join(ids))
        by_user, some = (
            ForgetRequest(column="user", values=rows.users[:8]),
            ForgetRequest(label=1, fraction=0.3, seed=i),
        )
        yield (
            ForgetRequest(column="user", values=users),
            ForgetRequest(column="id", ids_file=file),
            ForgetRequest(indices=rng.sample(range(n), 7)),
            ForgetRequest(label=rng.randrange(CLASSES)),
            ForgetRequest(label=str(rng.randrange(CLASSES)), fraction=0.6, seed=i),
            ForgetRequest(predicate=lambda row, notes=notes: row["note"] in notes),
            ForgetRequest(fraction=rng.uniform(0.1, 0.4), seed=i),
            ForgetRequest(label=users, label_column="user"),
            ForgetRequest(column="id", values=ids) | some,
            by_user & ForgetRequest(column="note", values=rows.notes[:9]),
        )[i % 10]


def unpacked(path):
    """The bytes of a file, and of the pictures in it as they were before they were packed."""
    raw = path.read_bytes()
    parts = [raw, *(base64.b64decode(found) for found in re.findall(rb"base64,([\w+/=]+)", raw))]
    if path.suffix == ".png":
        at, data = 8, b""
        while at < len(raw):
            size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
            data += raw[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
            at += size + 12
        parts.append(zlib.decompress(data))
    return b"\0".join(parts)


def leaks(folder, needles, *said):
    """Which needles are in the files of `folder` or in what was `said`."""
    blob = b"\0".join([*(unpacked(p) for p in sorted(folder.rglob("*")) if p.is_file()), *(s.encode() for s in said)])
    return [needle[:40] for needle in needles if needle in blob]


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_requests_of_every_kind_write_and_print_nothing_of_their_rows(arch, tmp_path, capfd, caplog):
    rows, test = marked(arch), data_for(arch, 24, 7)
    (tmp_path / "asked").mkdir()
    for number, request in enumerate(requests(rows, tmp_path / "asked", REQUESTS)):
        split, out = request.split(rows.data), tmp_path / str(number)
        settings = {"max_steps": 1, "forget_kind": "auto", "trust_region": 0.01}
        trainer = trainer_for(arch, tmp_path / "runs", GradientAscent(), split=split, overwrite=True, **settings)
        trainer.train()
        report = trainer.report(test_dataset=test)
        report.run["request"] = request.describe(class_names(trainer.model.config))
        report.save(out, figures=number == 0)
        report.print()
        write_card(out)
        print(request, split.request)
        streams = capfd.readouterr()
        assert leaks(out, rows.needles, streams.out, streams.err, caplog.text) == [], (number, request.describe())
        assert (out / "README.md").stat().st_size > 5000


def test_the_search_for_leaks_finds_a_leak(tmp_path):
    rows = marked("vit", 8)
    raw = np.asarray(rows.data["pixel_values"], np.float32)[3].tobytes()
    for content in (rows.ids[2].encode(), hashlib.sha256(raw).hexdigest().encode(), b"x" + raw, base64.b64encode(raw)):
        (tmp_path / "file").write_bytes(b"some " + content + b" bytes")
        assert leaks(tmp_path, rows.needles)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_whole_runs_print_and_write_nothing_of_their_rows(arch, tmp_path, capfd, caplog):
    rows = marked(arch)
    (tmp_path / "data").mkdir()
    data = rows.data
    if arch == "vit":
        data = image_data(48).remove_columns("user")
        for name in ("user", "id", "note"):
            data = data.add_column(name, rows.data[name])
    data.to_parquet(tmp_path / "data" / "train.parquet")
    test = image_data(24, 9).remove_columns("user") if arch == "vit" else text_data(24, 9).remove_columns("group")
    for name in ("user", "id", "note"):
        test = test.add_column(name, [name] * 24)
    test.to_parquet(tmp_path / "data" / "test.parquet")
    save_model(trained(arch), tokenizer() if arch == "bert" else image_processor(), tmp_path / "original")
    words = ["--model", tmp_path / "original", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "out"]
    if arch == "vit":
        words += ["--forget_column", "user", "--forget_values", *rows.users[:2]]
    else:
        (tmp_path / "ids.txt").write_text("\n".join(rows.ids[:9]))
        words += ["--forget_column", "id", "--forget_ids_file", tmp_path / "ids.txt"]
    token = f"hf_{secrets.token_hex(16)}"
    settings = "--use_cpu true --max_steps 3 --save_strategy steps --save_steps 2 --retrain true --train_epochs 1"
    words += ["--hub_token", token, *settings.split()]
    assert main(["run", *map(str, words)]) in (0, 1)
    said = capfd.readouterr()
    assert "rows selected by column" in (tmp_path / "out" / "README.md").read_text()
    assert leaks(tmp_path / "out", rows.needles, said.out, said.err, caplog.text) == []
    for file in (tmp_path / "out").rglob(
        "training_args.bin"
    ):  # of the base class, in checkpoints: it holds all arguments
        file.unlink()
    assert leaks(tmp_path / "out", [token.encode()], said.out, said.err, caplog.text) == []
    assert main(["run", *map(str, words), "--overwrite", "true", "--forget_values", rows.users[0], "not-there"]) == 2
    said = capfd.readouterr()
    assert "`forget_values`: " in said.err
    assert leaks(tmp_path / "out", rows.needles, *said) == []

"""Hostile names are inert wherever they are shown, and nothing of the rows to forget is in what a run leaves or says."""

import base64
import hashlib
import json
import random
import re
import secrets
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_unlearn import ForgetRequest, GradientAscent, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report.bias_pattern import read_pattern
from hf_unlearn.evaluation.report.run_description import class_names
from hf_unlearn.hub.card.evaluation_card import render_card, write_card
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.utils.safe_text import LENGTH, shown
from tests.support.data import CLASSES, data_for, image_data, image_processor, pixel_data, text_data, tokenizer
from tests.support.models import trained
from tests.support.runs import trainer_for

pytestmark = pytest.mark.slow

HOSTILE = [
    "x|</td><script>alert(1)</script>\n# **b** `c` [l](http://evil.example/a) ![i](http://evil.example) www.evil.example",
    "a\n---\nlicense: evil\n---\n",
    "'\"\n: [}{&* !!python/object/apply:os.system ['id']",
    "../../../etc/passwd\\..\\con",
    "\x1b[31mred\x00\x07\x9b",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "long " * 2000,
    "M" * 10_000,
    "```\n# out\n````\n~~~",
    "{{ 7 * 7 }}{% raw %}{# c #}",
    "$$\\frac{1}{2}$$ \\(x\\)",
    "<!-- </style></title><img src=x onerror=alert(1)>",
    "[^1]: http://evil.example\n\n[x]: http://evil.example",
    "&lt;b&gt;&#60;b&#62; @everyone me@evil.example",
    "- item\n1. one\n> quote\n| a | b |\n|---|---|",
    "\ud800\U000e0041",
    "_a_ __b__ ~~c~~ <http://evil.example>",
]
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]")
NAMED = ("CLASS-NAME", "COLUMN-NAME", "VALUE-NAME")


def tokens(text):
    """What a renderer makes of a card: kinds of its elements in order, and where links and pictures lead."""
    out = []
    for block in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        for token in [block, *(block.children or [])]:
            if token.type not in ("text", "text_special"):
                out.append((token.type, token.attrGet("href"), token.attrGet("src"), token.info))
    return out


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, [name for name, _ in attrs]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with a name in every place that takes one."""
    trainer = trainer_for("vit", tmp_path_factory.mktemp("names"), GradientAscent(), max_steps=2)
    trainer.model.config.id2label = {i: f"{NAMED[0]}-{i}" for i in range(CLASSES)}
    trainer.model.config.label2id = {f"{NAMED[0]}-{i}": i for i in range(CLASSES)}
    trainer.processor.label2id = trainer.model.config.label2id
    trainer.train()
    test = data_for("vit", 36, 7).add_column(NAMED[1], [NAMED[2] if i % 3 else "absent" for i in range(36)])
    pattern = read_pattern(NAMED[1], {NAMED[2]: f"{NAMED[0]}-2"}, trainer.processor, test)
    out = trainer.report(test_dataset=test, retrained=trained("vit"), retrained_seconds=9.0, pattern=pattern)
    out.outcome["warnings"].append(NAMED[0])
    return json.loads(json.dumps(out.as_dict()))


def with_name(report, name):
    """The report as it would be with `name` in the place of every name."""

    def put(value):
        if isinstance(value, dict):
            return {put(k): put(v) for k, v in value.items()}
        if isinstance(value, list):
            return [put(v) for v in value]
        return name if isinstance(value, str) and value.startswith(NAMED) else value

    out = put(report)
    request = ForgetRequest(label=name) | ForgetRequest(column=name, values=["v"], label=[name, "other"])
    extra = {"request": request.describe([name]), "splits": {"train": name}, "model_type": name}
    extra |= {"recipe": {"forget_class": [name], "bias_column": name}, "left_out": [name]}
    extra |= {
        "dataset_name": name,
        "dataset_config": name,
        "about": {**out["run"]["about"], "class": name, "formula": name[:300]},
    }
    out["run"] |= extra
    return out


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_nothing_but_text(report, name):
    plain, hostile = with_name(report, "name"), with_name(report, name)
    expected, text = (render_card(r, figures=["figures/roc.png"]) for r in (plain, hostile))
    text.encode()
    assert tokens(text.split("\n---\n", 1)[1]) == tokens(expected.split("\n---\n", 1)[1])
    data, wanted = (yaml.safe_load(t.split("\n---\n")[0]) for t in (text, expected))
    assert data.keys() == wanted.keys()
    assert ModelCard(text).data.to_dict() == data
    assert not HIDDEN.search(text)
    assert len(text) < 2 * len(expected) + 12_000
    body = re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(f"M{{{LENGTH + 1}}}", body.replace("M" * 1999 + "…", ""))  # the warning is no name
    ours, theirs = (UnlearningReport.from_dict(r) for r in (hostile, plain))
    html = ours.to_html(figures=False)
    assert Tags(html).seen == Tags(theirs.to_html(figures=False)).seen
    assert not HIDDEN.search(html)
    assert len(html) < 2 * len(theirs.to_html(figures=False)) + 12_000
    assert tokens(ours.to_markdown()) == tokens(theirs.to_markdown())


def test_the_comparison_notices_markup(report):
    """The tests above can fail: with names that are not made inert, every one of these changes what is rendered."""
    for name in (HOSTILE[0], HOSTILE[11], HOSTILE[12], HOSTILE[16]):
        assert tokens(f"- Request: {name} end") != tokens("- Request: name end")


def test_names_reach_no_file_name(report, tmp_path):
    named = with_name(report, "../../../up/<b>\nx") | {"roc": {}, "confidence": {}}  # the slow figures
    UnlearningReport.from_dict(named).save(tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert all(re.fullmatch(r"out(/[a-z_]+(\.\w+)?)*", path) for path in found), found
    links = re.findall(r"!\[.*?\]\((.*?)\)", write_card(tmp_path / "out").read_text())
    assert links
    assert all((tmp_path / "out" / link).is_file() for link in links)


def test_a_terminal_is_shown_no_control_character(report, capsys):
    UnlearningReport.from_dict(with_name(report, HOSTILE[4] + HOSTILE[5])).print()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", capsys.readouterr().out)


def test_a_run_on_hostile_names_has_an_inert_card(tmp_path):
    """The whole way: classes, a column and its values that are hostile, in the data set and in the model."""
    names = [*HOSTILE[:2], HOSTILE[5], HOSTILE[6]]
    save_model(trained("vit"), image_processor(), tmp_path / "original")
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (tmp_path / "original" / "config.json").write_text(json.dumps(config))
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).cast_column("label", datasets.ClassLabel(names=names))
        data.rename_column("user", HOSTILE[0]).to_parquet(tmp_path / "data" / f"{split}.parquet")
    words = ["--model", tmp_path / "original", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "out"]
    words += ["--forget_class", names[0], "--forget_column", HOSTILE[0], "--forget_values", "user-4", "user-8"]
    words += ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "1", "--figures", "false"]
    assert main(["run", *map(str, words)]) in (0, 1)
    text = (tmp_path / "out" / "README.md").read_text()
    kinds = {kind for kind, *_ in tokens(text.split("\n---\n", 1)[1])}
    assert not kinds & {"html_inline", "html_block"}
    links = {href for kind, href, *_ in tokens(text.split("\n---\n", 1)[1]) if kind == "link_open"}
    assert links == {"https://arxiv.org/abs/2402.01401"}
    assert "user-4" not in text
    assert shown(names[0])[:20].split("|")[0] in text


# --- the leak hunt ----------------------------------------------------------------------------------------------------

USERS = 12


def marked(arch, n=48):
    """Rows with words, ids and names that nobody could guess, and those."""
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


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_a_hundred_requests_leave_nothing_of_their_rows(arch, tmp_path, capfd, caplog):
    rows, test = marked(arch), data_for(arch, 24, 7)
    (tmp_path / "asked").mkdir()
    for number, request in enumerate(requests(rows, tmp_path / "asked", 50)):
        split, out = request.split(rows.data), tmp_path / str(number)
        settings = {"max_steps": 1, "forget_kind": "auto", "trust_region": 0.01}
        trainer = trainer_for(arch, tmp_path / "runs", GradientAscent(), split=split, overwrite=True, **settings)
        trainer.train()
        report = trainer.report(test_dataset=test)
        report.run["request"] = request.describe(class_names(trainer.model.config))
        report.save(out, figures=number % 25 == 0)
        report.print()
        write_card(out)
        print(request, split.request)
        streams = capfd.readouterr()
        assert leaks(out, rows.needles, streams.out, streams.err, caplog.text) == [], (number, request.describe())
        assert (out / "README.md").stat().st_size > 5000


def test_the_hunt_finds_what_is_there(tmp_path):
    rows = marked("vit", 8)
    raw = np.asarray(rows.data["pixel_values"], np.float32)[3].tobytes()
    for content in (rows.ids[2].encode(), hashlib.sha256(raw).hexdigest().encode(), b"x" + raw, base64.b64encode(raw)):
        (tmp_path / "file").write_bytes(b"some " + content + b" bytes")
        assert leaks(tmp_path, rows.needles)


@pytest.mark.parametrize("arch", ["vit", "bert"])
def test_whole_runs_say_and_leave_nothing_of_their_rows(arch, tmp_path, capfd, caplog):
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
    assert "`values`: " in said.err
    assert leaks(tmp_path / "out", rows.needles, *said) == []

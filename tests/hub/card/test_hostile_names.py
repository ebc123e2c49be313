"""Hostile names are inert wherever they are shown."""

import json
import re
from html.parser import HTMLParser

import datasets
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_unlearn import ForgetRequest, GradientAscent, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report.bias_pattern import read_pattern
from hf_unlearn.hub.card.evaluation_card import render_card, write_card
from hf_unlearn.models.pretrained import save_model
from hf_unlearn.utils.safe_text import LENGTH, shown
from tests.support.data import CLASSES, data_for, image_data, image_processor
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
def test_a_hostile_name_is_rendered_as_plain_text(report, name):
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


def test_the_comparison_of_tokens_notices_markup(report):
    """The tests above can fail: with names that are not made inert, every one of these changes what is rendered."""
    for name in (HOSTILE[0], HOSTILE[11], HOSTILE[12], HOSTILE[16]):
        assert tokens(f"- Request: {name} end") != tokens("- Request: name end")


def test_no_name_becomes_part_of_a_file_name(report, tmp_path):
    named = with_name(report, "../../../up/<b>\nx") | {"roc": {}, "confidence": {}}  # the slow figures
    UnlearningReport.from_dict(named).save(tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert all(re.fullmatch(r"out(/[a-z_]+(\.\w+)?)*", path) for path in found), found
    links = re.findall(r"!\[.*?\]\((.*?)\)", write_card(tmp_path / "out").read_text())
    assert links
    assert all((tmp_path / "out" / link).is_file() for link in links)


def test_no_control_character_reaches_the_terminal(report, capsys):
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
    words += [
        "--method",
        "jit",
        "--forget_class",
        names[0],
        "--forget_column",
        HOSTILE[0],
        "--forget_values",
        "user-4",
        "user-8",
    ]
    words += ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "1", "--figures", "false"]
    assert main(["run", *map(str, words)]) in (0, 1)
    text = (tmp_path / "out" / "README.md").read_text()
    kinds = {kind for kind, *_ in tokens(text.split("\n---\n", 1)[1])}
    assert not kinds & {"html_inline", "html_block"}
    links = {href for kind, href, *_ in tokens(text.split("\n---\n", 1)[1]) if kind == "link_open"}
    assert links == {"https://arxiv.org/abs/2402.01401"}
    assert "user-4" not in text
    assert shown(names[0])[:20].split("|")[0] in text

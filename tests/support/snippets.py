"""The snippets of a page, and a small world in which they run: an image folder, texts of customers, and tiny models."""

import csv
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import transformers
import yaml

from hf_unlearn.cli import main
from hf_unlearn.models.processor import Processor
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import build

BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run|exit code) ?(?P<rest>[^>]*?) -->\n)?"
    r"^```(?P<language>python|bash|yaml)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.M | re.S,
)
PICTURES, TEXTS = ("bird", "cat", "dog", "frog"), ("praise", "question", "order", "complaint")


@dataclass(frozen=True)
class Snippet:
    """A block of a page.

    Attributes:
        where: page and line.
        language: python, bash or yaml.
        text: the block.
        title: a file that the block is the content of, or None.
        reason: why the block is not run, or None if it is run.
        codes: exit codes that its commands may end with.
    """

    where: str
    language: str
    text: str
    title: str | None
    reason: str | None
    codes: tuple[int, ...]


def snippets(page, text):
    """Return the blocks of a page in order. A comment before a block says why it is not run, or which exit codes it has."""
    found = []
    for block in BLOCK.finditer(text):
        mark, rest = block["mark"], block["rest"] or ""
        codes = tuple(map(int, re.findall(r"\d+", rest.partition(":")[0]))) if mark == "exit code" else (0,)
        found.append(
            Snippet(
                f"{page}:{text[: block.start('text')].count(chr(10))}",
                block["language"],
                block["text"],
                block["title"],
                rest.lstrip(": ") if mark == "not run" else None,
                codes,
            )
        )
    return found


def run(blocks, name):
    """Run the blocks of a page one after another in the current folder. Python blocks share their names."""
    module = types.ModuleType(f"snippets_of_{re.sub(r'[^a-z]', '_', name)}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        for block in blocks:
            if block.reason is not None:
                continue
            if block.language == "yaml":
                yaml.safe_load(block.text)
                if block.title:
                    Path(block.title).write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, block.where, "exec"), module.__dict__)
            else:
                for words in commands(block.text):
                    assert words[0] == "hf-unlearn", f"{block.where}: mark what is not run: {words[0]}"
                    assert (code := command(words[1:])) in block.codes, f"{block.where}: exit code {code} of {words}"
    finally:
        del sys.modules[module.__name__]


def commands(text):
    """Return the words of each command of a block of bash."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(words):
    try:
        return main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2


def make_world(root):
    """Write the folders that the pages name: `photos`, `reviews`, and a model of each, saved by the plain Trainer."""
    for split, rows, seed in (("train", 96, 0), ("test", 48, 9)):
        for i, row in enumerate(image_data(rows, seed)):
            file = root / "photos" / split / PICTURES[row["label"]] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(file)
        table = root / "reviews" / f"{split}.csv"
        table.parent.mkdir(exist_ok=True)
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "user_id"])
            writer.writerows((r["text"], r["label"], f"u{120 + i % 16}") for i, r in enumerate(text_data(rows, seed)))
    for name, arch, names, processor in (
        ("photo-model", "vit", PICTURES, image_processor()),
        ("review-model", "bert", TEXTS, tokenizer()),
    ):
        model = build(arch)
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {label: i for i, label in enumerate(names)}
        arguments = transformers.TrainingArguments(
            output_dir=root / name,
            num_train_epochs=15,
            learning_rate=5e-3,
            per_device_train_batch_size=24,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            use_cpu=True,
        )
        rows = image_data(96) if arch == "vit" else text_data(96)
        ready = Processor(model, processor)
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=[ready(row) for row in rows],
            data_collator=ready.collate,
            processing_class=processor,
        )
        trainer.train()
        trainer.save_model()
        trainer.save_state()
    build("bert").base_model.save_pretrained(root / "base")
    tokenizer().save_pretrained(root / "base")
    return root

"""Write `docs/troubleshooting.md`: the messages of the errors that a user can meet, read from the code.

    python docs/make_troubleshooting.py

A test writes it again and compares.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE, PAGE = ROOT / "hf_unlearn", Path(__file__).with_name("troubleshooting.md")
RAISED = ("ValueError", "SystemExit", "PushError")
GAP = "…"  # stands for what differs from case to case
FEW_WORDS = 3  # a message with fewer words of its own says nothing without its values

ROOMS = {
    "cli": "The command line",
    "pipeline": "Recipes, data and models of a run",
    "data": "The request, and the rows",
    "models": "Models, tokenizers and image processors",
    "methods": "Methods",
    "training": "Arguments and checkpoints",
    "trainer": "The trainer",
    "evaluation": "Report, audit and comparison",
    "metrics": "Metrics",
    "shards": "Shards",
    "hub": "Card, receipt and push",
    "utils": "Files, names and values",
}
TOP = """# Troubleshooting

What the library says when something cannot work, and what to do. The page is written from the code by `docs/make_troubleshooting.py`. "…" stands for what differs from case to case: a name, a number, a path. A dash means that the message itself says what to correct.

Search this page for a few words of your message. Within a section the messages are in the order of the option or argument that they name first.

- A command ends with exit code 2 for each of these, and with 70 and a traceback for an error that nobody foresaw. Please report the latter with the output of `hf-unlearn env`.
- A run that ends with exit code 1 is no error: the model did not do what was asked. [Read the report](reading-the-report.md) says what to do then.
"""


class Message(NamedTuple):
    """What an error says: the option that it names first (or nothing), what is wrong, and what to do."""

    option: str
    wrong: str
    remedy: str


def written(node: ast.expr) -> str:
    """Return the text of a message, with a gap for each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else GAP for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return written(node.left) + written(node.right)
    return GAP


def messages(file: Path) -> Iterator[Message]:
    """Yield the messages of the errors that a file raises."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        error = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(error, ast.Call) and error.args and getattr(error.func, "id", "") in RAISED:
            text = " ".join(written(error.args[0]).split())
            if len(re.findall(r"[A-Za-z]{2,}", text)) >= FEW_WORDS:
                yield parted(text)


def parted(text: str) -> Message:
    """Part a message into what is wrong, which is its first sentence, and what to do."""
    option = re.search(r"`(?:--)?([a-z][\w-]*)", text)
    wrong, _, remedy = re.sub(r"\.…(?= |$)", ". …", text).partition(". ")
    remedy = re.sub(rf"^({GAP} ?)+|(?<=[.]) ?{GAP}$", "", remedy.strip()).strip()
    if not re.search(
        r"[A-Za-z]{2,}", re.sub(r"`[^`]*`", "", wrong)
    ):  # all of the first sentence differs from case to case
        wrong, remedy = text, ""
    if remedy and remedy[-1] not in ".!?":
        remedy += "."
    return Message(option[1].replace("-", "_") if option else "", wrong.rstrip("."), remedy)


def cell(text: str) -> str:
    """Return a text that is safe in a table: marks of markdown outside of code, and bars, mean themselves."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(p if i % 2 else re.sub(r"([*_<>\[\]{}])", r"\\\1", p) for i, p in enumerate(parts))


def page() -> str:
    """Return the page."""
    parts = [TOP]
    for room, title in ROOMS.items():
        place = PACKAGE / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        found = sorted({message for file in files for message in messages(file)})
        if found:
            rows = "\n".join(f"| {cell(m.wrong)} | {cell(m.remedy) or '–'} |" for m in found)
            parts.append(f"## {title}\n\n| message | what to do |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

"""`hf-unlearn methods`: which methods there are, what each can forget, and what it reads."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..methods import METHODS, UnlearningMethod
from .parsers import CommandParser, parser_settings


def describe(key: str, method: type[UnlearningMethod]) -> dict[str, Any]:
    """Return what a method can forget, what it reads and where it comes from, ready for JSON."""
    kinds = ["attribute"] if method.needs_column else sorted(method.kinds)
    return {
        "method": key,
        "class": method.__name__,
        "forgets": kinds,
        "reads": list(_read(method)),
        "trains": not method.one_shot,
        "paper": None if method.paper is None else method.paper.url,
        "summary": method.about()["summary"],
    }


def _read(method: type[UnlearningMethod]) -> Iterator[str]:
    if method.needs_forget and not method.needs_column:
        yield "forget rows with labels" if method.needs_labels else "forget inputs"
    if method.needs_retain or method.needs_column or not method.needs_forget:
        yield "retain rows"
    if method.needs_column:
        yield "a column"
    if method.reads_held_out:
        yield "held-out rows, if there are any"
    if method.reads_base:
        yield "the base, if it is known"


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn methods`. Returns 0."""
    about = "List the methods: what each can forget, what it reads, and its paper. `hf-unlearn run --method NAME --help` explains one."
    parser = CommandParser(**parser_settings("methods", about, "", "--json"))
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")
    options = parser.parse_args(list(words))
    found = [describe(key, method) for key, method in METHODS.items()]
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    for one in found:
        print(f"{one['method']}  forgets: {', '.join(one['forgets'])}; reads: {', '.join(one['reads'])}")
        print(f"    {one['summary']}")
    print(
        "\n`--method auto`, the default, takes the one that suits. `hf-unlearn run --method NAME --help` explains one."
    )
    return 0

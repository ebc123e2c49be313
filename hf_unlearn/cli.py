"""`hf-unlearn demo | run | audit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

USAGE = """usage: hf-unlearn {demo,run,audit} ...

  hf-unlearn demo                      train a small classifier, forget a class and a random 10 %, compare with retraining
  hf-unlearn run --config RECIPE.yaml  unlearn what a recipe or the command line names
  hf-unlearn audit --original … --unlearned … --retrained … --forget … --test …
                                       judge a model made by any tool against retrained ones

`hf-unlearn demo --help`, `hf-unlearn run --help` and `hf-unlearn audit --help` explain every option.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    if command == "run":
        from .run import main as run

        return run(words[1:])
    if command == "audit":
        from .audit import main as audit

        return audit(words[1:])
    if command == "demo":
        from .demo import main as demo

        return demo(_demo_arguments(words[1:]))
    if command == "--version":
        from . import __version__

        print(__version__)
        return 0
    print(USAGE, end="", file=sys.stdout if command in ("-h", "--help") else sys.stderr)
    return 0 if command in ("-h", "--help") else 2


def _demo_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-unlearn demo", description="Train, forget, compare with retraining, report."
    )
    parser.add_argument(
        "--task", choices=("vision", "text"), default="vision", help="kind of classifier (default: vision)"
    )
    parser.add_argument(
        "--dataset", help="folder or Hub id; default: scikit-learn's digits (vision); required for text"
    )
    parser.add_argument("--text-column", help="text column, if not `text`, `sentence` or `content`")
    parser.add_argument("--label-column", default="label", help="column of class ids (default: label)")
    parser.add_argument("--forget-class", help="class to forget (default: the fourth)")
    parser.add_argument("--output", default="demo-output", help="folder for reports and figures (default: demo-output)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parsed = parser.parse_args(words)
    if parsed.task == "text" and not parsed.dataset:
        parser.error("--task text needs --dataset: a folder or Hub id with a text and a label column")
    return parsed


if __name__ == "__main__":
    sys.exit(main())

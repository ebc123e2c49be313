"""`hf-unlearn demo | run | audit | card | push | receipt`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

USAGE = """usage: hf-unlearn {demo,run,audit,card,push,receipt} ...

  hf-unlearn demo                      train a small classifier, forget a class and a random 10 %, compare with retraining
  hf-unlearn run --config RECIPE.yaml  unlearn what a recipe or the command line names (--num-processes N: in N processes)
  hf-unlearn audit --original … --unlearned … --retrained … --forget … --test …
                                       judge a model made by any tool against retrained ones
  hf-unlearn card RUN_FOLDER           write the model card again, with the audit that was saved there since
  hf-unlearn push FOLDER --repo ORG/NAME
                                       publish what a run wrote on the Hub, privately, beside the original
  hf-unlearn receipt verify --folder … check a published model against its deletion receipt

Each of them explains every option with `--help`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    if command == "run":
        from .launch import main as run

        return run(words[1:])
    if command == "audit":
        from .audit import main as audit

        return audit(words[1:])
    if command == "card":
        from .hub.card import main as card

        return card(words[1:])
    if command == "receipt":
        from .hub.receipt_command import main as receipt

        return receipt(words[1:])
    if command == "push":
        from .hub.command import main as push

        return push(words[1:])
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

"""`hf-unlearn demo | run | audit | card | push | receipt`: words of a command line in, an exit code out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("demo", "run", "audit", "card", "push", "receipt")  # one module of this room each
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
    if command in COMMANDS:
        # Only the module of the command that is asked for is imported: each takes seconds.
        code: int = import_module(f".{command}", __name__).main(words[1:])
        return code
    if command == "--version":
        from .. import __version__

        print(__version__)
        return 0
    asked = command in ("-h", "--help")
    print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2

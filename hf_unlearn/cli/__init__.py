"""The commands `hf-unlearn demo | init | run | audit | compare | shards | card | push | receipt | app | methods | env`: each takes words and returns an exit code."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ..utils.argument_checks import did_you_mean
from ..utils.safe_text import shown
from .exit_codes import answered

COMMANDS = (
    "demo",
    "init",
    "run",
    "audit",
    "compare",
    "shards",
    "card",
    "push",
    "receipt",
    "app",
    "methods",
    "env",
)  # each is a module of this package
LONG = (
    "demo",
    "run",
    "audit",
    "compare",
    "shards",
    "app",
)  # those that read models and data before they have anything to say
USAGE = """usage: hf-unlearn {demo,init,run,audit,compare,shards,card,push,receipt,app,methods,env} ...

  hf-unlearn demo                      train a small classifier, forget a class and a random 10 %, compare with retraining
  hf-unlearn init [NAME]               list the recipes that come with the package, or write one here, to edit and run
  hf-unlearn run --config RECIPE.yaml  unlearn the rows that a recipe or the command line names, and report the result
  hf-unlearn audit --original … --unlearned … --retrained … --forget … --test …
                                       judge a model that any tool made, against retrained models
  hf-unlearn compare --config FILE.yaml
                                       run methods on requests, and compare each with retraining
  hf-unlearn shards train | forget …   train adapters on shards of the rows, so that a deletion is exact and costs one shard
  hf-unlearn card RUN_FOLDER           write the model card of a run again, with an audit that was saved there since
  hf-unlearn push FOLDER --repo ORG/NAME
                                       publish the model and the report of a run on the Hub, privately by default
  hf-unlearn receipt verify --folder … check a published model against its deletion receipt
  hf-unlearn app                       open a page in the browser: did a model forget, and does a receipt fit?
  hf-unlearn methods                   list the methods, what each can forget and what it reads
  hf-unlearn env                       print the versions and devices that a report of a bug needs

`hf-unlearn COMMAND --help` explains every option.
"""


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how threads of OpenMP wait for each other


def _let_waiting_threads_sleep() -> None:
    """Tell OpenMP, which reads this when torch is loaded, that a thread sleeps while it waits, unless the user chose how it waits.

    By default it spins, and so takes its core from the very thread that it waits for if another process is busy too: a small
    model on two cores then trains ten times slower, and more. The number of threads stays, and with it every result.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `exit_codes`). `argv` defaults to the words on the command line."""
    _let_waiting_threads_sleep()
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    if command in COMMANDS:
        if command in LONG and not any(word.startswith(("-h", "--help")) for word in words):
            print(f"hf-unlearn {command}: loading libraries, models and data", file=sys.stderr, flush=True)
        # Only this command's module is imported, because each takes seconds. A Ctrl-C in these seconds has its exit code too.
        return answered(lambda: import_module(f".{command}", __name__).main(words[1:]))
    if command == "--version":
        from .. import __version__

        print(__version__)
        return 0
    asked = command in ("-h", "--help")
    if not asked:
        hint = did_you_mean(command, COMMANDS)
        print(f"`{shown(command)}` is no command of hf-unlearn.{hint}\n", file=sys.stderr)
    print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2

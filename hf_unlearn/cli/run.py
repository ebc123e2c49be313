"""`hf-unlearn run`: one run from a recipe and the command line, in this process or in several."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from ..pipeline.prepare import check_folders, prepare
from ..pipeline.recipe import as_words, read_recipe
from ..pipeline.run_arguments import RunArguments
from ..pipeline.unlearn import unlearn
from .exit_codes import answered
from .processes import launch, number_of_processes, shared_environment

if TYPE_CHECKING:
    from ..methods import UnlearningMethod
    from ..training.arguments import UnlearningArguments


def main(words: Sequence[str] | None = None) -> int:
    """`hf-unlearn run`: 0 when the model forgot what was asked, 1 when it did not; other codes as in `exit_codes`."""
    parser = argparse.ArgumentParser(prog="hf-unlearn run", add_help=False, allow_abbrev=False)
    parser.add_argument("--num-processes", "--num_processes", default="1", metavar="N")
    given, rest = parser.parse_known_args(list(sys.argv[1:] if words is None else words))
    return answered(lambda: run_once(rest) if given.num_processes == "1" else _run_shared(given.num_processes, rest))


def _run_shared(number: str, words: Sequence[str]) -> int:
    """One run in several processes; the original, where the recipe asks for one, is trained before by this process alone."""
    processes = number_of_processes(number)
    run, args, method = checked(words)
    environment = shared_environment(processes, args)
    if run.model_config is not None and not os.path.exists(run.model):
        prepare(run, args, method)
    return launch([sys.executable, "-m", "hf_unlearn.cli.worker", *words], processes, environment)


def parse(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """Recipe (`--config file.yaml`) and command line, which wins, as three dataclasses.

    Raises:
        SystemExit: unknown key or method, wrong type, missing value; the message names it.
    """
    from transformers import HfArgumentParser

    from ..methods import METHODS
    from ..training.arguments import UnlearningArguments

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?", const="")
    first.add_argument("--method")
    early, given = first.parse_known_args(list(argv))
    recipe = {} if early.config is None else read_recipe(early.config)
    key = early.method or recipe.get("method", "jit")
    given += ["--method", key]
    if key not in METHODS:
        raise SystemExit(f"`method={key!r}` is unknown. Known: {', '.join(METHODS)}.")
    classes = (RunArguments, UnlearningArguments, METHODS[key])
    known = [f.name for c in classes for f in fields(c) if f.init]
    for name in recipe:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise SystemExit(
                f"`{name}` in the recipe is no field of the run, of `UnlearningArguments` or of `{key}`.{hint}"
            )
    parser = HfArgumentParser(
        classes,
        prog="hf-unlearn run",
        usage="hf-unlearn run [--config RECIPE] [--KEY VALUE ...]",  # not all keys below every error
        description="Unlearn, measure, report, save.",
        epilog="--num-processes N: in N processes of this machine, each with a GPU or its share of the cores.",
        allow_abbrev=False,
    )
    for action in parser._actions:  # argparse takes a percent sign for a placeholder
        action.help = re.sub(r"(?<!%)%(?![(%])", "%%", action.help or "")
    switches = {name for c in classes for name, kind in get_type_hints(c).items() if kind in (bool, bool | None)}
    from_recipe = [w for name, value in recipe.items() for w in as_words(name, value, name in switches)]
    try:
        run, args, method = parser.parse_args_into_dataclasses([*from_recipe, *given])
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{error}") from error
    if run.test_split == "none":
        run.test_split = None
    return run, args, method


def run_once(argv: Sequence[str]) -> int:
    """One run: 0 when the model forgot what was asked, else 1; of several processes the first one answers, for all."""
    from ..hub.card.evaluation_card import write_card
    from ..hub.push.run_folder import push_after_run
    from ..pipeline.records import record_receipt
    from ..training.checkpoints import resume_hint
    from ..training.resuming import save_finished
    from ..training.stopping import Interrupted
    from ..utils.files import clear_errors

    run, args, method = checked(argv)
    folder = Path(args.output_dir)
    try:
        job = prepare(run, args, method)
        trainer, report = unlearn(job, method, keep=lambda t: save_finished(t, job.processing_class, folder / "model"))
        if not trainer.is_world_process_zero():
            return 0
        with clear_errors("the report", folder):
            report.save(folder, figures=run.figures)
            record_receipt(job, trainer, report)
            write_card(folder, overwrite=True)
    except KeyboardInterrupt as stop:
        raise Interrupted(resume_hint(stop, folder), getattr(stop, "signum", signal.SIGINT)) from stop
    report.print()
    print(f"Model in {folder / 'model'}, report in {folder / 'report.html'}, card in {folder / 'README.md'}")
    pushed = push_after_run(trainer, folder)
    return (0 if trainer.outcome.ok else 1) if pushed else 2


def checked(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """`parse`, and what else can be refused before anything is loaded.

    Raises:
        ValueError, SystemExit: the message names the argument.
    """
    from ..models.adapter_config import read_config
    from ..training.backends import check_backend

    run, args, method = parse(argv)
    check_backend(method, args)
    check_folders(run.model, args.output_dir, args.overwrite or run.resume or bool(args.resume_from_checkpoint))
    if run.peft_config is not None:
        read_config(run.peft_config)
    return run, args, method

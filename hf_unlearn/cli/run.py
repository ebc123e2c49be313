"""`hf-unlearn run`: unlearn as a recipe and the command line say, in this process or in several."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..evaluation.answers import BAD
from ..evaluation.report.answers import answers
from ..hub.card.evaluation_card import write_card
from ..hub.push.run_folder import push_after_run
from ..methods import METHODS, UnlearningMethod
from ..methods.choice import AUTO, choose_method
from ..models.adapter_config import read_config
from ..pipeline.folder_lock import sole_writer
from ..pipeline.prepare import check_folders, check_request, classes_without_rows, prepare
from ..pipeline.recipe import read_recipe
from ..pipeline.records import record_receipt
from ..pipeline.run_arguments import RunArguments
from ..pipeline.unlearn import unlearn
from ..training.arguments import UnlearningArguments
from ..training.backends import check_backend
from ..training.checkpoints import finished_marker, resume_hint
from ..training.resuming import save_finished
from ..training.stopping import Interrupted
from ..utils.argument_checks import check_finite, did_you_mean
from ..utils.files import clear_errors
from ..utils.safe_text import shown
from .exit_codes import answered
from .option_groups import OTHERS, option_groups
from .option_parser import OptionParser, names_of
from .parsers import parser_settings
from .processes import launch, number_of_processes, shared_environment

# Options that take a mapping. True: and nothing else, such as a name or the path of a file.
MAPPINGS = {
    **dict.fromkeys(("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs"), True),
    **dict.fromkeys(("accelerator_config", "fsdp_config", "deepspeed", "peft_config", "bias_labels"), False),
}

EARLY = {  # options that are read before the others
    "--config": ("RECIPE", "A YAML file whose keys are options. The command line wins over it."),
    "--num-processes": ("N", "Processes of this machine that share the run. (default: 1)"),
}


def main(words: Sequence[str] | None = None) -> int:
    """`hf-unlearn run`: 0 if the model reached its target, 1 if it did not; other codes as in `exit_codes`."""
    parser = argparse.ArgumentParser(prog="hf-unlearn run", add_help=False, allow_abbrev=False)
    parser.add_argument("--num-processes", "--num_processes", nargs="?", default="1", const="")
    known, others = parser.parse_known_args(list(sys.argv[1:] if words is None else words))
    number = known.num_processes
    return answered(lambda: run_once(others) if number == "1" else _run_shared(number, others))


def _run_shared(number: str, words: Sequence[str]) -> int:
    """Run in several processes. If the recipe asks for an original, this process trains it first."""
    processes = number_of_processes(number)
    run, args, method = checked(words)
    environment = shared_environment(processes, args)
    with sole_writer(args.output_dir):
        if run.model_config is not None and not os.path.exists(run.model):
            prepare(run, args, method)
        return launch([sys.executable, "-m", "hf_unlearn.cli.worker", *words], processes, environment)


def _first_words(argv: Sequence[str]) -> tuple[dict[str, Any], list[str], Any, str]:
    """Return what decides which options there are: the recipe, the other words, and the method's key.

    The fourth value says why this method suits the request; it is empty if the user named the method.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    parser.add_argument("--method", nargs="?", const="")
    early, others = parser.parse_known_args(list(argv))
    recipe = {} if early.config is None else read_recipe(early.config)
    key = recipe.get("method", AUTO) if early.method is None else early.method
    if key != AUTO:
        return recipe, others, key, ""
    attribute = "attribute" in recipe or any(word.partition("=")[0] == "--attribute" for word in others)
    # There always are rows to keep: those that the request leaves.
    return recipe, others, *choose_method(True, attribute)


def parse(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """Read the recipe (`--config file.yaml`) and the command line, which overrides the recipe, into three dataclasses.

    Raises:
        SystemExit: a key or the method is unknown, a value has the wrong type, or one is missing; the message names it.
    """
    recipe, others, key, _ = _first_words(argv)
    if not isinstance(key, str) or key not in METHODS:
        raise SystemExit(
            f"`method={key!r}` is unknown. Known: auto, {', '.join(METHODS)}.{did_you_mean(str(key), METHODS)}"
        )
    classes = (RunArguments, UnlearningArguments, METHODS[key])
    known = [name for c in classes for f in fields(c) if f.init for name in names_of(f)]
    elsewhere = {
        f.name: f"`{f.name}` is an option of `--method {other}`, and this run is of `--method {key}`. Leave it out."
        for other, kind in METHODS.items()
        for f in fields(kind)
        if f.name not in known
    }
    for name in recipe:
        if name in elsewhere:
            raise SystemExit(elsewhere[name])
        if name not in known:
            hint = did_you_mean(name, known)
            raise SystemExit(f"`{shown(name)}` in the recipe is no option of `hf-unlearn run --method {key}`.{hint}")
    settings = parser_settings(
        "run",
        "Unlearn rows, classes or an attribute; then measure, report and save. Every option is also a key of a recipe, and can be written "
        "with hyphens.",
        "--config recipes/digits-vit/jit.yaml",
        "--config recipes/digits-vit/jit.yaml --num-processes 2   (two processes, each with a GPU or half of the cores)",
        "--model my-org/classifier --dataset my-org/data --forget_column user_id --forget_values u123 --output_dir out",
        "--method counterfactual_distillation --help   (the options of another method)",
    )
    usage = "hf-unlearn run [--config RECIPE] [--num-processes N] [--KEY VALUE ...]"  # an error does not list all keys
    groups = option_groups(*classes)
    page = None if "--help-all" in argv else groups.keys() - OTHERS
    parser = OptionParser(classes, MAPPINGS, groups, page, elsewhere, usage=usage, **settings)
    for name, (metavar, about) in EARLY.items():
        parser.add_argument(name, default=argparse.SUPPRESS, metavar=metavar, help=about)
    parser.add_argument("--help-all", action="help", help="Show also all options of the HF Trainer.")
    run, args, method = parser.read(others, {**recipe, "method": key})
    for part in (run, method):
        check_finite(part)
    if run.test_split == "none":
        run.test_split = None
    return run, args, method


def run_once(argv: Sequence[str], holds_folder: bool = False) -> int:
    """Run once. Returns 0 if the model reached its target, 1 if not, and 2 if the push after the run failed.

    If several processes run, only the first writes and knows the code; the others return 0. `holds_folder` says that the launcher
    of this process keeps other runs out of the output folder.
    """
    run, args, method = checked(argv)
    folder = Path(args.output_dir)
    locks = args.process_index == 0 and not holds_folder
    try:
        with sole_writer(folder) if locks else nullcontext():
            *_, because = _first_words(argv)
            if because and args.process_index == 0:
                print(f"Method: {method.name}, because {because}. `--method` names another.", flush=True)
            job = prepare(run, args, method)
            if because and method.needs_retain and not method.needs_column and (lost := classes_without_rows(job)):
                args.method, method = "jit", METHODS["jit"]()
                if args.process_index == 0:
                    print(
                        f"Method: jit, because the data has no row of {', '.join(lost[:5])}, and training without would forget that.",
                        flush=True,
                    )
            trainer, report = unlearn(job, method, keep=lambda t: _keep(t, job.processing_class, folder / "model"))
            if not trainer.is_world_process_zero():
                return 0
            with clear_errors("the report", folder):
                report.save(folder, figures=run.figures)
                record_receipt(job, trainer, report)
                write_card(folder, overwrite=True)
    except KeyboardInterrupt as stop:
        raise Interrupted(resume_hint(stop, folder), getattr(stop, "signum", signal.SIGINT)) from stop
    report.print()
    places = f"report in {folder / 'report.html'}, card in {folder / 'README.md'}"
    if trainer.outcome.unchanged:
        kept_back = "No model was written or pushed" if args.push_to_hub else "No model was written"
        print(f"{kept_back}, because the run ended with the original ({trainer.outcome.stopped}); {places}")
        return 1
    print(f"Model in {folder / 'model'}, {places}")
    pushed = push_after_run(trainer, folder)
    forgot = answers(report)
    ok = trainer.outcome.ok and not (forgot and forgot[0].light is BAD)
    return (0 if ok else 1) if pushed else 2


def _keep(trainer: Any, processing_class: Any, folder: Path) -> None:
    """Save the model that the run ended with. If that is the original, nothing is saved, and a former run's model goes too."""
    if trainer.outcome.unchanged:
        finished_marker(folder).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        save_finished(trainer, processing_class, folder)


def checked(argv: Sequence[str]) -> tuple[RunArguments, UnlearningArguments, UnlearningMethod]:
    """Call `parse`, and refuse what can be refused before anything is loaded: ValueError or SystemExit name the argument."""
    run, args, method = parse(argv)
    check_backend(method, args)
    check_request(run, method)
    replaces = args.overwrite or run.resume or bool(args.resume_from_checkpoint)
    check_folders(run.model, args.output_dir, replaces, run.retrain)
    if run.peft_config is not None:
        read_config(run.peft_config)
    return run, args, method

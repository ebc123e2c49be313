"""`hf-unlearn push`: publish the folder of a run on the Hub."""

import argparse
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..hub.push.push import MESSAGE
from ..hub.push.run_folder import describe, push_run
from ..hub.push.staging import inventory, prepare_folder
from ..hub.push.target_names import check_key, check_targets
from ..utils.argument_checks import renamed
from ..utils.safe_text import visible
from .parsers import CommandParser, parser_settings

OPTIONS = {
    "repo_id": "--repo",
    "key": "--sign-key",
    **{name: f"--{name.replace('_', '-')}" for name in ("base_model", "overwrite_original", "sign_key")},
}
"""The option that gives an argument of `push_run`. Errors name the option."""


def _parse(words: Sequence[str]) -> argparse.Namespace:
    about = "Publish an unlearned model with its card, report, figures and receipt, as one commit."
    examples = ("out --repo my-org/classifier --dry-run", "out --repo my-org/classifier --sign-key key.pem --tag v2")
    parser = CommandParser(**parser_settings("push", about, *examples))
    add = parser.add_argument
    add("run_folder", help="Output folder of a run, or folder of a model.")
    add("--repo", dest="repo_id", required=True, help="Repository, as org/name. A missing one is made, privately.")
    add("--revision", help="Branch. By default `main` if that is empty or holds this model, else a new branch.")
    add("--public", dest="private", action="store_false", help="Make a new repository public.")
    add("--tag", dest="tags", metavar="TAG", action="append", default=[], help="Git tag. Can be given several times.")
    add("--base-model", help="Hub id of the original, if the run used a local copy of it.")
    add("--overwrite-original", metavar="ORG/NAME", help="Replace all but the license there. Repeat the full name.")
    add("--sign-key", help="PEM file of the key that signs the receipt. `hf-unlearn receipt keygen` makes one.")
    add("--message", default=MESSAGE, help="Commit message.")
    add("--dry-run", action="store_true", help="List what would be pushed, and send nothing.")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn push`. Returns 0; a push that fails raises."""
    options = _parse(words)
    try:
        with stopped_by_sigterm(), renamed(OPTIONS):
            if options.dry_run:
                return _dry_run(options)
            pushed = push_run(**{name: value for name, value in vars(options).items() if name != "dry_run"})
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Give the same command again to continue.") from None
    print(describe(pushed))
    return 0


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the process by a `SystemExit` with code 143, so that a half-done push is undone first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SystemExit(143)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _dry_run(options: argparse.Namespace) -> int:
    """Print what a push would send, after the checks that do not ask the Hub."""
    whole = "/" in options.repo_id  # only the Hub knows the owner of a bare name
    check_targets(options.repo_id, options.revision, options.tags, options.overwrite_original if whole else None)
    check_key(options.sign_key)
    with prepare_folder(options.run_folder, base_model=options.base_model) as staged:
        print(f"Would push to {options.repo_id}{'' if whole else ' in your own namespace'}:")
        for name in inventory(staged.folder)[0]:
            print(f"  {name}  ({(staged.folder / name).stat().st_size:,} bytes)")
        print(f"Would leave out: {', '.join(map(visible, staged.left_out)) or 'nothing'}")
    return 0

"""`hf-unlearn push`: the folder of a run on the Hub."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..hub.push.push import MESSAGE
from ..hub.push.run_folder import describe, push_run
from ..hub.push.staging import inventory, prepare_folder
from ..hub.push.target_names import check_key, check_targets
from ..utils.safe_text import visible
from .exit_codes import answered


def main(words: Sequence[str]) -> int:
    """`hf-unlearn push`: 0 when the model is on the Hub, 2 where that failed; other codes as in `exit_codes`."""
    return answered(lambda: _push(_parse(words)))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-unlearn push",
        description="Publish an unlearned model with its card, report, figures and receipt, as one commit.",
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", help="output folder of a run, or folder of a model")
    parser.add_argument("--repo", required=True, help="org/name; made, privately, where it does not exist")
    parser.add_argument("--revision", help="branch; by default main of an empty repository, else a new one")
    parser.add_argument("--public", action="store_true", help="a repository that is made is public")
    parser.add_argument("--tag", action="append", default=[], help="git tag of the commit; may be given several times")
    parser.add_argument("--base-model", help="Hub id of the original, if the run had a local copy of it")
    parser.add_argument(
        "--overwrite-original", metavar="ORG/NAME", help="replace all that is there but its licence: the full name"
    )
    parser.add_argument("--sign-key", help="PEM file of the key to sign the receipt with (`hf-unlearn receipt keygen`)")
    parser.add_argument("--message", default=MESSAGE, help=f"commit message (default: {MESSAGE})")
    parser.add_argument("--dry-run", action="store_true", help="list what would be pushed; nothing is sent")
    return parser.parse_args(words)


def _push(given: argparse.Namespace) -> int:
    try:
        with stopped_by_sigterm():
            if given.dry_run:
                return _dry_run(given)
            pushed = push_run(
                given.run_folder,
                given.repo,
                base_model=given.base_model,
                sign_key=given.sign_key,
                revision=given.revision,
                private=not given.public,
                tags=given.tag,
                message=given.message,
                overwrite_original=given.overwrite_original,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("The same command goes on where this one stopped.") from None
    print(describe(pushed))
    return 0


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the process as an exit with 143 does: what is half done is taken back first."""
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


def _dry_run(given: argparse.Namespace) -> int:
    """List what a push would send, after the checks that need no answer of the Hub."""
    whole = "/" in given.repo  # else the Hub knows whose it is
    check_targets(given.repo, given.revision, given.tag, given.overwrite_original if whole else None)
    check_key(given.sign_key)
    with prepare_folder(given.run_folder, base_model=given.base_model) as staged:
        own = "" if whole else " in your own namespace"
        print(f"Would push to {given.repo}{own}:")
        for name in inventory(staged.folder)[0]:
            print(f"  {name}  ({(staged.folder / name).stat().st_size:,} bytes)")
        print(f"Would leave out: {', '.join(map(visible, staged.left_out)) or 'nothing'}")
    return 0

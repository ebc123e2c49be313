"""`hf-unlearn push`: the folder of a run on the Hub; and the same at the end of a run whose recipe asks for it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..utils.safe_text import visible
from .push import MESSAGE, Pushed, full_name, license_there, push_folder
from .staging import inventory, prepare_folder
from .targets import check_key, check_targets

logger = logging.getLogger(__name__)


def push_run(
    run_folder: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    note: str = "",
    card: Mapping[str, Any] | None = None,
    sign_key: str | Path | None = None,
    **settings: Any,
) -> Pushed:
    """Prepare the folder of a run and push it; `settings` as in `push_folder`, the others as in `prepare_folder`."""
    names = (settings.get("revision"), settings.get("tags", ()))
    check_targets(repo_id, *names)
    check_key(sign_key)
    repo_id = full_name(repo_id, settings.get("token"), settings.get("patience"))  # the card says where the model is
    check_targets(repo_id, *names, settings.get("overwrite_original"))
    with prepare_folder(
        run_folder,
        base_model=base_model,
        note=note,
        card=card,
        sign_key=sign_key,
        repo_id=repo_id,
        license_there=partial(
            license_there, repo_id, settings.get("revision"), settings.get("token"), settings.get("patience")
        ),
    ) as staged:
        tell_left_out(staged.left_out)
        return push_folder(staged.folder, repo_id, original=staged.original, **settings)


def tell_left_out(names: Sequence[str]) -> None:
    """Log what stays here."""
    if names:
        logger.warning("Left out: %s.", ", ".join(map(visible, names)))


def describe(pushed: Pushed) -> str:
    """One line for the terminal."""
    done = "Pushed to" if pushed.changed else "Everything is there already:"
    kind = "private" if pushed.private else "public"
    where = f"branch '{pushed.revision}' of the {kind} repository {pushed.repo_id}, commit {pushed.commit.oid[:8]}"
    removed = f"; removed from the branch: {', '.join(map(visible, pushed.removed))}" if pushed.removed else ""
    return f"{done} {where}, {len(pushed.files)} files{removed}"


def push_after_run(trainer: Any, run_folder: str | Path) -> bool:
    """Push a run that has ended, if its arguments say so; False where that failed, and why is on the terminal."""
    args = trainer.args
    if not args.push_to_hub or not trainer.is_world_process_zero():
        return True
    trainer._finish_current_push()
    try:
        pushed = push_run(
            run_folder,
            trainer.hub_model_id,
            revision=args.hub_revision or trainer.hub_branch,
            private=args.hub_private_repo is not False,
            token=args.hub_token,
        )
    except (OSError, ValueError) as error:
        again = f"`hf-unlearn push {run_folder} --repo {trainer.hub_model_id}`"
        print(f"Error: {error}\nThe model is safe in {run_folder}, and can be pushed with {again}.", file=sys.stderr)
        return False
    print(describe(pushed))
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-unlearn push`: 0 when the model is on the Hub, 2 where that failed, 130 after Ctrl-C."""
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
    given = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
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
        print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
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

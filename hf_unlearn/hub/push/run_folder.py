"""The folder of a run on the Hub: prepared and pushed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...utils.safe_text import visible
from .push import Pushed, full_name, license_there, push_folder
from .staging import prepare_folder
from .target_names import check_key, check_targets

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

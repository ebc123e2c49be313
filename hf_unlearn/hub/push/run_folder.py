"""Prepare the folder of a run and push it, by a command or at the end of the run."""

import logging
import sys
from collections.abc import Mapping
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
    """Prepare the folder of a run and push it: `settings` as in `push_folder`, other arguments as in `prepare_folder`."""
    names = (settings.get("revision"), settings.get("tags", ()))
    connection = (settings.get("token"), settings.get("patience"))
    check_targets(repo_id, *names)
    check_key(sign_key)
    repo_id = full_name(repo_id, *connection)  # the card says where the model is
    check_targets(repo_id, *names, settings.get("overwrite_original"))
    with prepare_folder(
        run_folder,
        base_model=base_model,
        note=note,
        card=card,
        sign_key=sign_key,
        repo_id=repo_id,
        license_there=partial(license_there, repo_id, names[0], *connection),
    ) as staged:
        if staged.left_out:
            logger.warning("Left out: %s.", ", ".join(map(visible, staged.left_out)))
        return push_folder(staged.folder, repo_id, original=staged.original, **settings)


def describe(pushed: Pushed) -> str:
    """Return one line for the terminal that says what a push did."""
    done = "Pushed to" if pushed.changed else "Everything is there already:"
    kind = "private" if pushed.private else "public"
    where = f"branch '{pushed.revision}' of the {kind} repository {pushed.repo_id}, commit {pushed.commit.oid[:8]}"
    removed = f"; removed from the branch: {', '.join(map(visible, pushed.removed))}" if pushed.removed else ""
    return f"{done} {where}, {len(pushed.files)} files{removed}"


def push_after_run(trainer: Any, run_folder: str | Path) -> bool:
    """Push a finished run if its arguments say so. Returns False if the push failed, after printing why."""
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

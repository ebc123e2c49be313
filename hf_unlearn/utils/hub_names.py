"""Sources as `folder`, `org/name` or `org/name@revision`, pinned to a commit of the Hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds; loading itself says what is wrong with the Hub


def split_revision(source: str, revision: str | None = None, argument: str = "model") -> tuple[str, str | None]:
    """`source` without what follows an `@`, and the revision named there or by `revision`.

    Raises:
        ValueError: both name one, and not the same.
    """
    if "@" not in source or Path(source).exists():
        return source, revision
    name, _, named = source.rpartition("@")
    if not name or not named:
        raise ValueError(f"`{argument}={source!r}`: write `org/name@revision`, or leave the `@` out.")
    if revision is not None and revision != named:
        raise ValueError(f"`{argument}={source!r}` names another revision than `{argument}_revision={revision!r}`.")
    return name, named


def pinned(source: str, revision: str | None = None, argument: str = "model") -> tuple[str, str | None]:
    """`source` and the commit that its revision stands for now, so that whatever is loaded later is of that one commit.

    `argument` is `model` or `dataset`. A folder is returned as it is, and so is a name whose commit cannot be asked for: loading it
    says why, or finds it in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    name, revision = split_revision(source, revision, argument)
    if Path(name).exists():
        return name, revision
    try:
        return name, HfApi().repo_info(name, revision=revision, repo_type=argument, timeout=TIMEOUT).sha
    except (HTTPError, OfflineModeIsEnabled, ValueError) as error:
        logger.info("`%s=%r` is not pinned to a commit: %s", argument, name, type(error).__name__)
        return name, revision


def snapshots(name: str) -> Path:
    """Where the Hub's cache holds the model `name`, a folder for each commit, if it ever was loaded from there."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")


HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_local(source: str) -> bool:
    """Whether `source` is a folder, or could be no Hub id."""
    return not HUB_ID.fullmatch(source) or Path(source).expanduser().exists()

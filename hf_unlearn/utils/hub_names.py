"""Names of models and data sets: a folder, `org/name` or `org/name@revision`, pinned to a commit of the Hub."""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds. A Hub that does not answer is no error here: loading reports it.
COMMIT = re.compile("[0-9a-f]{40}")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def split_revision(source: str, revision: str | None = None, argument: str = "model") -> tuple[str, str | None]:
    """Return the name in `source`, and the revision that follows its `@` or that `revision` gives.

    Raises:
        ValueError: the two revisions differ, or a side of the `@` is empty.
    """
    if "@" not in source or os.path.exists(source):
        return source, revision
    name, _, named = source.rpartition("@")
    if not name or not named:
        raise ValueError(f"`{argument}={source!r}`: write `org/name@revision`, or leave the `@` out.")
    if revision is not None and revision != named:
        raise ValueError(f"`{argument}={source!r}` names another revision than `{argument}_revision={revision!r}`.")
    return name, named


def pinned(source: str, revision: str | None = None, argument: str = "model") -> tuple[str, str | None]:
    """Return the name in `source` and the commit of its revision now, so that every later load reads the same commit.

    A folder is not pinned, and has no revisions. A name that the Hub does not answer for is not pinned either: loading reports why, or finds the name
    in the cache. `argument` is `model`, `base_model` or `dataset`.

    Raises:
        ValueError: as in `split_revision`, or a folder or file is given with a revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    name, revision = split_revision(source, revision, argument)
    kind = "dataset" if argument == "dataset" else "model"
    if os.path.exists(name):
        if revision is not None:
            raise ValueError(
                f"`{argument}_revision={revision!r}`: `{argument}={name!r}` is on this machine and has no revisions. Leave it out."
            )
        return name, None
    try:
        return name, HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT).sha
    except (HTTPError, OfflineModeIsEnabled, ValueError) as error:
        logger.info("`%s=%r` is not pinned to a commit: %s", argument, name, type(error).__name__)
        return name, revision


def snapshots(name: str) -> Path:
    """Return the folder where the Hub's cache keeps the commits of the model `name`. It may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")


def file_beside(source: str, name: str, revision: str | None = None) -> Path | None:
    """Return the path of a file in the folder or the repository of the model `source`; None if there is none, or no answer."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if is_local(source):
        path = Path(source).expanduser() / name
        return path if path.is_file() else None
    with suppress(HfHubHTTPError, OSError, ValueError):
        return Path(hf_hub_download(source, name, revision=revision))
    return None


def is_local(source: str) -> bool:
    """Check whether `source` is a folder, or cannot be a Hub id."""
    return not HUB_ID.fullmatch(source) or os.path.exists(os.path.expanduser(source))

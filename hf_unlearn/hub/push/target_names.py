"""Names of repositories, branches and tags, checked before anything is sent."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ...utils.safe_text import visible
from .retries import PushError

# Names that `git check-ref-format --branch` refuses, and names that mean a commit.
NO_REF = re.compile(
    r"|-.*|refs/.*|HEAD|[0-9a-f]{40}|[0-9a-f]{64}|.*([\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//).*|/.*|(.*/)?\..*|.*[/.]|.*\.lock(/.*)?",
    re.DOTALL,
)


def check_targets(
    repo_id: str, revision: str | None = None, tags: Sequence[str] = (), overwrite_original: str | None = None
) -> None:
    """Raise PushError if the Hub or git would refuse a name, or if `overwrite_original` is not `repo_id`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        words = visible(" ".join(str(error).split()))
        raise PushError(f"`repo_id={visible(repo_id)!r}` is no name on the Hub: {words}") from error
    for argument, name in (("revision", revision), *(("tag", tag) for tag in tags)):
        if name is not None and NO_REF.fullmatch(name):
            raise PushError(
                f"`{argument}={visible(name)!r}` is no name that git takes for a branch or a tag. Choose one without spaces, "
                "`..`, `~^:?*[\\` or a dot or slash at its ends, and no commit."
            )
    if overwrite_original is not None and overwrite_original != repo_id:
        raise PushError(
            f"`overwrite_original={visible(overwrite_original)!r}` is not the repository of the push, {visible(repo_id)!r}. Repeat that name."
        )


def check_key(sign_key: str | Path | None) -> None:
    """Raise ValueError if there is no file `sign_key`."""
    if sign_key is not None and not os.path.isfile(sign_key):
        raise ValueError(f"`sign_key`: no file {visible(str(sign_key))}. Make one with `hf-unlearn receipt keygen`.")

"""Where a push goes: names of repositories, branches and tags, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ...utils.hub_names import is_local
from ...utils.safe_text import visible
from .retries import PushError

# What `git check-ref-format --branch` refuses, and what stands for a commit.
NO_REF = re.compile(
    r"|-.*|refs/.*|HEAD|[0-9a-f]{40}|[0-9a-f]{64}|.*([\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//).*|/.*|(.*/)?\..*|.*[/.]|.*\.lock(/.*)?",
    re.DOTALL,
)


def check_targets(
    repo_id: str, revision: str | None = None, tags: Sequence[str] = (), overwrite_original: str | None = None
) -> None:
    """Raise PushError for a name that the Hub or git would not take, or an `overwrite_original` that is not `repo_id`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        words = visible(" ".join(str(error).split()))
        raise PushError(f"`repo_id={visible(repo_id)!r}` is no name on the Hub: {words}") from error
    for argument, name in (("revision", revision), *(("tag", tag) for tag in tags)):
        if name is not None and NO_REF.fullmatch(name):
            raise PushError(
                f"`{argument}={visible(name)!r}` is no name that git takes for a branch or a tag. Choose one without spaces, "
                "`..`, `~^:?*[\\` or a dot or slash at its ends, which is no commit."
            )
    if overwrite_original is not None and overwrite_original != repo_id:
        raise PushError(
            f"`overwrite_original={visible(overwrite_original)!r}` is not the repository that is pushed to, {visible(repo_id)!r}."
        )


def check_key(sign_key: str | Path | None) -> None:
    """Raise ValueError where there is no file of a key to sign with."""
    if sign_key is not None and not Path(sign_key).is_file():
        raise ValueError(
            f"`sign_key`: there is no file {visible(str(sign_key))}. Make one with `hf-unlearn receipt keygen`."
        )


def check_base(base_model: str | None) -> None:
    """Raise ValueError where `base_model` is no id of the Hub, or a folder."""
    if base_model is not None and is_local(base_model):
        raise ValueError(
            f"`base_model={visible(base_model)!r}` is a folder, or no name on the Hub, and nobody else could find it there. Give "
            "it as owner/name (in Python `finetuned_from`)."
        )

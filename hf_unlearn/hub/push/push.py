"""One commit on the Hub for one unlearned model: on a new repository or branch, never over the original by accident.

with prepare_folder("out") as staged:
    push_folder(staged.folder, "org/name", original=staged.original)
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...utils.files import file_digest, holds_text
from ...utils.safe_text import visible
from ..layout import ADAPTER_CONFIG, BOILERPLATE, CARD, RECEIPT, WEIGHTS, is_publishable
from .branch_contents import evidence_in, is_evidence, is_tagged, license_beside, names_of, not_boilerplate, same_files
from .retries import CONFLICT, Patience, PushError, bounded, explained, is_passing, patiently, status, wait
from .staging import inventory
from .target_names import check_targets

logger = logging.getLogger(__name__)

MESSAGE = "Unlearned model"
IS_ORIGINAL = "`revision='{branch}'` of {repo} is the original, which stays. "
IS_ANOTHER = "`revision='{branch}'` of {repo} holds what hf_unlearn did not push, and {file} of it would be lost. "
HAS_HISTORY = (
    "A new branch of {repo} would start from its first commit, which holds {file}: the original could be had from the history. "
    "Push to a new repository."
)
REMEDY = (
    "Leave out `revision` for a new branch, name another, or, to replace what is there, say so with its full name: "
    "--overwrite-original {repo} (in Python `overwrite_original`)."
)


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repo_id: full name of the repository.
        revision: the branch.
        commit: what `HfApi.create_commit` returns; its `oid` is the branch's head.
        files, removed: paths that the branch now holds, and that it held before as parts of another model.
        changed: False where everything was there already.
        private: whether only its owners see the repository.
    """

    repo_id: str
    revision: str
    commit: CommitInfo
    files: list[str]
    removed: list[str]
    changed: bool
    private: bool


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = True,
    tags: Sequence[str] = (),
    original: tuple[str | None, str | None] = (None, None),
    overwrite_original: str | None = None,
    message: str = MESSAGE,
    token: str | None = None,
    patience: Patience | None = None,
) -> Pushed:
    """Push a prepared folder as one commit. The push completes, or leaves what the repository held as it was.

    Only files on the list of `staging.is_publishable` are pushed, and weights of another model are removed from the branch by
    the same commit.

    Args:
        folder: see `prepare_folder`.
        repo_id: `org/name`, or `name` for one's own. A repository that does not exist is made.
        revision: the branch. By default `main` where that holds nothing or this very model, else a new one, `unlearned-<request or digest>`,
            which starts from the repository's first commit, so that the original's weights are not in its history either.
        private: whether a new repository is private. One that exists stays as it is.
        tags: git tags of the commit; none is ever moved.
        original: Hub id and commit of the model that was unlearned.
        overwrite_original: the full name of the repository, where what is on `main` (or on `revision`) is to be replaced in
            full: all but a licence and the like (`sealing.BOILERPLATE`) is removed that is not part of the push.
        token: with write right; by default the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        PushError: the Hub did not take it, or the push would replace the original or another model; the message says what to
            do. The same call again sends nothing twice.
    """
    with explained(repo_id):
        return _Push(Path(folder), repo_id, token, patience or Patience()).run(
            revision, private, tags, original, overwrite_original, message
        )


def full_name(repo_id: str, token: str | None = None, patience: Patience | None = None) -> str:
    """`repo_id` with its owner: a bare name is one's own. Raises PushError as `push_folder`."""
    if "/" in repo_id:
        return repo_id
    with explained(repo_id):
        return f"{patiently(HfApi(token=token).whoami, patience=patience or Patience())['name']}/{repo_id}"


def license_there(
    repo_id: str, revision: str | None = None, token: str | None = None, patience: Patience | None = None
) -> Any:
    """The licence that the repository was made with, or got by an earlier push; None where there is none."""
    look = HfApi(token=token).model_info
    with explained(repo_id):
        try:
            return license_beside(patiently(look, repo_id, revision=revision, patience=patience or Patience()))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None


class _Push:
    """The steps of one push."""

    def __init__(self, folder: Path, repo_id: str, token: str | None, patience: Patience) -> None:
        self.api, self.folder, self.patience, self.in_full = HfApi(token=token), folder, patience, False
        self.files, left_out = inventory(folder)
        if left_out:
            logger.warning("Not on the list of what is published, and left out: %s.", ", ".join(map(visible, left_out)))
        self.repo_id = full_name(repo_id, token, patience)

    def _ask(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        return patiently(call, *args, patience=self.patience, **kwargs)

    def run(
        self,
        revision: str | None,
        private: bool,
        tags: Sequence[str],
        original: tuple[str | None, str | None],
        overwrite_original: str | None,
        message: str,
    ) -> Pushed:
        self.in_full = overwrite_original is not None
        check_targets(self.repo_id, revision, tags, overwrite_original)
        self._check_base()
        main = self._look_or_make(private)
        refs = self._ask(self.api.list_repo_refs, self.repo_id)
        heads = {ref.name for ref in refs.branches}
        taken = {ref.name: ref.target_commit for ref in refs.tags}
        empty = not not_boilerplate(main) and not self._has_foreign_words(main)
        free = empty or (self._is_same_model(main) and not self._is_original(original))
        branch = revision or ("main" if overwrite_original or free else self._branch_name())
        if branch in taken:
            raise PushError(f"`revision={branch!r}` is a tag of {self.repo_id}, and a push needs a branch.")
        there = self._first() if branch not in heads else main if branch == "main" else self._look(branch)
        if overwrite_original is None and branch in heads:
            self._refuse_to_replace(branch, there, original)
        self._check_tags(tags, taken, there)
        if branch in heads and CARD in self.files and self._has_foreign_words(there):
            logger.warning(
                "%s on '%s' is not of hf_unlearn and is replaced; its text stays in the history.", CARD, branch
            )
        with self._branch(branch, there.sha, exists=branch in heads):
            pushed = self._commit(branch, there, message, main.private)
        self._tag([tag for tag in tags if tag not in taken], pushed)
        return pushed

    def _check_base(self) -> None:
        """Raise PushError where the base of an adapter is not on the Hub."""
        if ADAPTER_CONFIG not in self.files:
            return
        adapter = json.loads((self.folder / ADAPTER_CONFIG).read_text())
        base = adapter["base_model_name_or_path"]
        with explained(f"`base_model`: unknown base: {base}"):
            self._ask(self.api.model_info, base, revision=adapter.get("revision"))

    def _look_or_make(self, private: bool) -> Any:
        try:
            return self._look()
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            self._ask(self.api.create_repo, self.repo_id, private=private, exist_ok=True)
            return self._look()

    def _look(self, revision: str | None = None) -> Any:
        """What is on a branch, by default `main`: its files and its head, which a commit that follows must still find there."""
        return self._ask(self.api.model_info, self.repo_id, revision=revision, files_metadata=True)

    def _first(self) -> Any:
        """The repository's first commit, for a branch without the original in its history."""
        first = self._look(self._ask(self.api.list_repo_commits, self.repo_id)[-1].commit_id)
        held = sorted(not_boilerplate(first))
        if held:
            raise PushError(HAS_HISTORY.format(repo=self.repo_id, file=visible(held[0])))
        return first

    def _branch_name(self) -> str:
        """`unlearned-` and the id of the request, or eight digits of the weights' digest: the same model, the same branch."""
        receipt = self.folder / RECEIPT
        request = json.loads(receipt.read_text()).get("request") if receipt.is_file() else None
        given = request.get("id") if isinstance(request, dict) else None
        if isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}(?<![.])", given) and ".." not in given:
            return f"unlearned-{given}"
        return f"unlearned-{hashlib.sha256(json.dumps(self.weights).encode()).hexdigest()[:8]}"

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of tensors."""
        return {n: file_digest(self.folder / n) for n in self.files if n.endswith(".safetensors")}

    def _is_same_model(self, info: Any) -> bool:
        """Whether a branch holds these weights: an earlier push of them, to be completed or to get another card."""
        there = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs is not None}
        return self.weights.items() <= there.items()

    def _is_original(self, original: tuple[str | None, str | None]) -> bool:
        return (original[0] or "").casefold() == self.repo_id.casefold()

    def _refuse_to_replace(self, branch: str, there: Any, original: tuple[str | None, str | None]) -> None:
        """Raise PushError where `branch` is the original's, or holds a file that was not pushed from here and would be lost."""
        if self._is_original(original) and (branch == "main" or there.sha == original[1]):
            raise PushError(IS_ORIGINAL.format(branch=branch, repo=self.repo_id) + REMEDY.format(repo=self.repo_id))
        lost = sorted(name for name in names_of(there) if name in self.files or self._is_stale(name))
        if lost == [CARD] and not self._has_foreign_words(there):
            return
        if lost and not (self._is_same_model(there) or is_tagged(there) or self._has_evidence(there)):
            lost_first = IS_ANOTHER.format(branch=branch, repo=self.repo_id, file=visible(lost[0]))
            raise PushError(lost_first + REMEDY.format(repo=self.repo_id))

    def _has_evidence(self, there: Any) -> bool:
        """Whether a report or a receipt there is one of hf_unlearn."""
        return any(self._tells(there, name, is_evidence) for name in evidence_in(there))

    def _has_foreign_words(self, there: Any) -> bool:
        """Whether somebody wrote a README there; one that only names a licence is written by the Hub."""
        return CARD in names_of(there) and not is_tagged(there) and self._tells(there, CARD, holds_text)

    def _tells(self, there: Any, name: str, look: Callable[[Path], bool]) -> bool:
        """What `look` says of a small file on a branch."""
        with tempfile.TemporaryDirectory() as folder:
            settings = {"revision": there.sha, "local_dir": folder}
            return look(Path(self._ask(self.api.hf_hub_download, self.repo_id, name, **settings)))

    @contextmanager
    def _branch(self, branch: str, first: str, exists: bool) -> Iterator[None]:
        """Inside, the branch exists; one that was made for nothing is taken back."""
        if exists:
            yield
            return
        try:
            self._ask(self.api.create_branch, self.repo_id, branch=branch, revision=first, exist_ok=True)
            yield
        except BaseException:  # an interruption too
            self._take_back(branch, first)
            raise

    def _take_back(self, branch: str, first: str) -> None:
        try:
            refs = self._ask(self.api.list_repo_refs, self.repo_id)
            if (branch, first) in {(ref.name, ref.target_commit) for ref in refs.branches}:
                self._ask(self.api.delete_branch, self.repo_id, branch=branch)
        except Exception as error:  # the error that led here is the one to show
            logger.warning(
                "%s may now have a branch '%s' without a model (%s).", self.repo_id, branch, type(error).__name__
            )

    def _commit(self, branch: str, there: Any, message: str, private: bool) -> Pushed:
        """One commit with all files, upon the head that was checked; what lies there already is not sent again.

        After an answer that was lost, or another commit, the branch is looked at anew: the client library leaves out files that
        are there, so that a commit that did arrive is recognised, and one of somebody else's is never overwritten.
        """
        parent, conflicts = there.sha, 0
        for attempt in range(self.patience.tries):
            there = self._look(branch) if attempt else there
            gone = [file.rfilename for file in there.siblings if self._is_stale(file.rfilename)]
            additions = [CommitOperationAdd(name, str(self.folder / name)) for name in self.files]
            with bounded(self.patience):  # these requests are repeated by the client library
                self.api.preupload_lfs_files(self.repo_id, additions, revision=branch)
            operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in gone)]
            try:
                with bounded(self.patience):
                    commit = self.api.create_commit(
                        self.repo_id, operations, revision=branch, commit_message=message, parent_commit=parent
                    )
            except (HTTPError, json.JSONDecodeError) as error:
                conflicts += status(error) in CONFLICT
                again = is_passing(error) or (status(error) in CONFLICT and conflicts == 1)
                if not again or attempt + 1 == self.patience.tries:
                    raise
                wait(error, attempt, self.patience)
            else:
                return Pushed(self.repo_id, branch, commit, self.files, gone, commit.oid != parent, private)
        raise AssertionError("the last try returns or raises")

    def _is_stale(self, path: str) -> bool:
        """Whether a file on the branch is of another model: loaded beside the pushed ones it would do harm.

        Where the branch is overwritten, that is every file that the receipt over the pushed ones would call extra.
        """
        if path in self.files or BOILERPLATE.fullmatch(path):
            return False
        return self.in_full or is_publishable(path) or WEIGHTS.fullmatch(path) is not None

    def _check_tags(self, tags: Sequence[str], taken: dict[str, str], there: Any) -> None:
        """Raise PushError for a tag that would have to move."""
        known = [tag for tag in tags if tag in taken]
        stays = not any(map(self._is_stale, names_of(there))) and same_files(
            there, self.folder, self.files if known else []
        )
        for tag in known:
            if taken[tag] != there.sha or not stays:
                raise PushError(f"`tag={tag!r}` is taken in {self.repo_id}, and tags are not moved. Choose another.")

    def _tag(self, tags: Sequence[str], pushed: Pushed) -> None:
        for tag in tags:
            try:
                with explained(self.repo_id):
                    self._make_tag(tag, pushed.commit.oid)
            except OSError as error:
                arrived = f"The model is on '{pushed.revision}' of {self.repo_id}, commit {pushed.commit.oid[:8]}"
                raise PushError(f"{arrived}, but without the tag {tag!r}: {error}") from error

    def _make_tag(self, tag: str, commit: str) -> None:
        try:
            self._ask(self.api.create_tag, self.repo_id, tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if status(error) != 409:
                raise
            refs = self._ask(self.api.list_repo_refs, self.repo_id)
            if (tag, commit) not in {(ref.name, ref.target_commit) for ref in refs.tags}:  # else an answer was lost
                raise PushError(f"`tag={tag!r}` is taken, and tags are not moved. Choose another.") from error

"""One commit on the Hub for one unlearned model, in a new repository or on a new branch, never over the original.

with prepare_folder("out") as staged:
    push_folder(staged.folder, "org/name", original=staged.original)
"""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from ...utils.files import file_digest, holds_text
from ...utils.safe_text import visible
from ..layout import ADAPTER_CONFIG, BOILERPLATE, CARD, RECEIPT, REPORT, WEIGHTS, is_publishable
from .branch_contents import is_evidence, is_tagged, license_beside, names_of, not_boilerplate, same_files
from .retries import CONFLICT, Patience, PushError, bounded, explained, is_passing, patiently, status, wait
from .staging import inventory
from .target_names import check_targets

logger = logging.getLogger(__name__)

MESSAGE = "Unlearned model"
IS_ORIGINAL = "`revision='{branch}'` of {repo} is the original, which stays. "
IS_ANOTHER = "`revision='{branch}'` of {repo} holds what hf_unlearn did not push, and {file} of it would be lost. "
HAS_HISTORY = (
    "A new branch of {repo} would start from its first commit, which holds {file}, so its history would hold the original. "
    "Push to a new repository."
)
REMEDY = (
    "Leave out `revision` for a new branch, name another branch, or replace what is there by giving the full name: "
    "--overwrite-original {repo} (in Python `overwrite_original`)."
)


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repo_id: full name of the repository.
        revision: the branch.
        commit: what `HfApi.create_commit` returns; its `oid` is the head of the branch.
        files: paths of the pushed files.
        removed: paths of another model that the commit removed from the branch.
        changed: False if everything was on the branch already.
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
    """Push a prepared folder as one commit. The push completes, or the repository keeps what it held.

    Only files on the list `layout.is_publishable` are pushed. The same commit removes weights of another model from the branch.

    Args:
        folder: see `prepare_folder`.
        repo_id: `org/name`, or `name` in one's own namespace. The repository is created if it does not exist.
        revision: the branch. None (default): `main` if it is empty or holds this very model, else a new branch
            `unlearned-<request or digest>`. It starts from the repository's first commit, so that its history does not hold
            the original's weights.
        private: whether a new repository is private (default True). An existing repository stays as it is.
        tags: git tags of the commit (default none). A tag is never moved.
        original: Hub id and commit of the model that was unlearned, each None (default) if unknown.
        overwrite_original: full name of the repository if the content of the branch is to be replaced. Every file that is not
            pushed is removed, except a license and the like (`layout.BOILERPLATE`). None (default): files of others stay.
        message: message of the commit (default "Unlearned model").
        token: token with write right. None (default): the token of `hf auth login` or of `HF_TOKEN`.
        patience: how long to wait and how often to retry. None (default): `Patience()`.

    Raises:
        PushError: the Hub refused the push, or the push would replace the original or another model. The message says what
            to do. The same call again sends nothing twice.
    """
    with explained(repo_id):
        push = _Push(Path(folder), repo_id, HfApi(token=token), patience or Patience(), original, overwrite_original)
        return push.run(revision, private, tags, message)


def full_name(repo_id: str, token: str | bool | None = None, patience: Patience | None = None) -> str:
    """Return `repo_id` with its owner: the user, if it has none. Raises PushError as `push_folder`."""
    if "/" in repo_id:
        return repo_id
    with explained(repo_id):
        return f"{patiently(HfApi(token=token).whoami, patience=patience or Patience())['name']}/{repo_id}"


def license_there(
    repo_id: str, revision: str | None = None, token: str | None = None, patience: Patience | None = None
) -> Any:
    """Return the license that the repository was made with or got by an earlier push, None if there is none."""
    with explained(repo_id):
        try:
            info = patiently(HfApi(token=token).model_info, repo_id, revision=revision, patience=patience or Patience())
            return license_beside(info)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None


@dataclass
class _Push:
    """The steps of one push. In them `there` is what lies on a branch (`ModelInfo`): its files and its head."""

    folder: Path
    repo_id: str
    api: HfApi
    patience: Patience
    original: tuple[str | None, str | None]
    overwrite_original: str | None

    def __post_init__(self) -> None:
        self.files, left_out = inventory(self.folder)
        if left_out:
            logger.warning("Not on the list of what is published, and left out: %s.", ", ".join(map(visible, left_out)))
        self.repo_id = full_name(self.repo_id, self.api.token, self.patience)

    def _ask(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        return patiently(call, *args, patience=self.patience, **kwargs)

    def run(self, revision: str | None, private: bool, tags: Sequence[str], message: str) -> Pushed:
        check_targets(self.repo_id, revision, tags, self.overwrite_original)
        self._check_base()
        main = self._find_or_create(private)
        branches, tagged = self._refs()
        is_empty = not not_boilerplate(main) and not self._has_foreign_card(main)
        main_is_free = is_empty or (self._is_same_model(main) and not self._is_original())
        branch = revision or ("main" if self.overwrite_original or main_is_free else self._branch_name())
        if branch in tagged:
            raise PushError(f"`revision={branch!r}` is a tag of {self.repo_id}, and a push needs a branch.")
        exists = branch in branches
        there = self._first_commit() if not exists else main if branch == "main" else self._info(branch)
        if exists and self.overwrite_original is None:
            self._refuse_to_replace(branch, there)
        self._check_tags(tags, tagged, there)
        if exists and CARD in self.files and self._has_foreign_card(there):
            logger.warning("%s on '%s' is not of hf_unlearn and is replaced; the history keeps its text.", CARD, branch)
        with nullcontext() if exists else self._new_branch(branch, there.sha):
            pushed = self._commit(branch, there, message, main.private)
        for tag in tags:
            if tag not in tagged:
                self._tag(tag, pushed)
        return pushed

    def _check_base(self) -> None:
        """Raise PushError if the base of an adapter is not on the Hub."""
        if ADAPTER_CONFIG not in self.files:
            return
        adapter = json.loads((self.folder / ADAPTER_CONFIG).read_text())
        base = adapter["base_model_name_or_path"]
        with explained(f"`base_model`: unknown base: {base}"):
            self._ask(self.api.model_info, base, revision=adapter.get("revision"))

    def _find_or_create(self, private: bool) -> Any:
        """Return what is on `main`, after creating the repository if there is none."""
        try:
            return self._info()
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            self._ask(self.api.create_repo, self.repo_id, private=private, exist_ok=True)
            return self._info()

    def _info(self, revision: str | None = None) -> Any:
        """Return what is on a branch, by default `main`: its files and its head, on which the commit is made."""
        return self._ask(self.api.model_info, self.repo_id, revision=revision, files_metadata=True)

    def _refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the commit of each branch, and of each tag."""
        refs = self._ask(self.api.list_repo_refs, self.repo_id)
        branches, tags = ({ref.name: ref.target_commit for ref in kind} for kind in (refs.branches, refs.tags))
        return branches, tags

    def _first_commit(self) -> Any:
        """Return the repository's first commit, from which a branch starts without the original in its history."""
        first = self._info(self._ask(self.api.list_repo_commits, self.repo_id)[-1].commit_id)
        if held := sorted(not_boilerplate(first)):
            raise PushError(HAS_HISTORY.format(repo=self.repo_id, file=visible(held[0])))
        return first

    def _branch_name(self) -> str:
        """Return `unlearned-` and the id of the request or a digest of the weights, the same for the same model."""
        receipt = self.folder / RECEIPT
        request = json.loads(receipt.read_text()).get("request") if receipt.is_file() else None
        given = request.get("id") if isinstance(request, dict) else None
        if isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}(?<![.])", given) and ".." not in given:
            return f"unlearned-{given}"
        return f"unlearned-{hashlib.sha256(json.dumps(self.weights).encode()).hexdigest()[:8]}"

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of weights."""
        return {n: file_digest(self.folder / n) for n in self.files if n.endswith(".safetensors")}

    def _is_same_model(self, there: Any) -> bool:
        """Whether a branch holds these weights, from an earlier push that is to be completed or gets another card."""
        digests = {file.rfilename: file.lfs.sha256 for file in there.siblings if file.lfs is not None}
        return self.weights.items() <= digests.items()

    def _is_original(self) -> bool:
        return (self.original[0] or "").casefold() == self.repo_id.casefold()

    def _refuse_to_replace(self, branch: str, there: Any) -> None:
        """Raise PushError if `branch` is the original's, or holds a file of somebody else that would be lost."""
        remedy = REMEDY.format(repo=self.repo_id)
        if self._is_original() and (branch == "main" or there.sha == self.original[1]):
            raise PushError(IS_ORIGINAL.format(branch=branch, repo=self.repo_id) + remedy)
        lost = sorted(name for name in names_of(there) if name in self.files or self._is_stale(name))
        if not lost or (lost == [CARD] and not self._has_foreign_card(there)):
            return
        evidence = sorted({REPORT, RECEIPT} & names_of(there))
        is_ours = self._is_same_model(there) or is_tagged(there)
        if not is_ours and not any(self._is_true_of(is_evidence, there, name) for name in evidence):
            raise PushError(IS_ANOTHER.format(branch=branch, repo=self.repo_id, file=visible(lost[0])) + remedy)

    def _has_foreign_card(self, there: Any) -> bool:
        """Whether somebody wrote a README there. The Hub itself writes one that only names a license."""
        return CARD in names_of(there) and not is_tagged(there) and self._is_true_of(holds_text, there, CARD)

    def _is_true_of(self, check: Callable[[Path], bool], there: Any, name: str) -> bool:
        """Download a small file of a branch and return what `check` says of it."""
        with tempfile.TemporaryDirectory() as folder:
            settings = {"revision": there.sha, "local_dir": folder}
            return check(Path(self._ask(self.api.hf_hub_download, self.repo_id, name, **settings)))

    @contextmanager
    def _new_branch(self, branch: str, first: str) -> Iterator[None]:
        """Create a branch at the commit `first`. After an error or an interruption delete it, if it is still there."""
        try:
            self._ask(self.api.create_branch, self.repo_id, branch=branch, revision=first, exist_ok=True)
            yield
        except BaseException:
            try:
                if self._refs()[0].get(branch) == first:
                    self._ask(self.api.delete_branch, self.repo_id, branch=branch)
            except Exception as error:  # the error that led here is the one to show
                logger.warning("%s may now have an empty branch '%s': %s", self.repo_id, branch, type(error).__name__)
            raise

    def _commit(self, branch: str, there: Any, message: str, private: bool) -> Pushed:
        """Make one commit with all files on the head that was checked. Files that lie there already are not sent again.

        If an answer was lost, or somebody else made a commit, the branch is read again. The client library leaves out files
        that are there, so a commit that did arrive is recognized, and a commit of somebody else is never overwritten.
        """
        parent, conflicts = there.sha, 0
        for attempt in range(self.patience.tries):
            there = self._info(branch) if attempt else there
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
        """Whether a file on the branch is of another model and would do harm beside the pushed files.

        If the branch is overwritten, these are all files that `hf-unlearn receipt verify` would call extra.
        """
        if path in self.files or BOILERPLATE.fullmatch(path):
            return False
        return bool(self.overwrite_original is not None or is_publishable(path) or WEIGHTS.fullmatch(path))

    def _check_tags(self, tags: Sequence[str], tagged: dict[str, str], there: Any) -> None:
        """Raise PushError for a tag that would have to move: it is taken, and the push would add a commit."""
        for tag in (tag for tag in tags if tag in tagged):
            is_whole = same_files(there, self.folder, self.files) and not any(map(self._is_stale, names_of(there)))
            if tagged[tag] != there.sha or not is_whole:
                raise PushError(f"`tag={tag!r}` is taken in {self.repo_id}, and tags are not moved. Choose another.")

    def _tag(self, tag: str, pushed: Pushed) -> None:
        commit = pushed.commit.oid
        try:
            with explained(self.repo_id):
                try:
                    self._ask(self.api.create_tag, self.repo_id, tag=tag, revision=commit)
                except HTTPError as error:
                    if status(error) != 409:
                        raise
                    if self._refs()[1].get(tag) != commit:  # else the answer to an earlier try was lost
                        raise PushError(f"`tag={tag!r}` is taken, and tags are not moved. Choose another.") from error
        except OSError as error:
            arrived = f"The model is on '{pushed.revision}' of {self.repo_id}, commit {commit[:8]}"
            raise PushError(f"{arrived}, but without the tag {tag!r}: {error}") from error

"""How `UnlearningTrainer` publishes. The base class would upload its whole output folder with pickles."""

import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ...evaluation.report.report import UnlearningReport
from ...utils.hub_names import is_local
from ..card.evaluation_card import write_plain_card
from .push import IS_ORIGINAL, REMEDY
from .retries import Patience, PushError, explained, patiently
from .run_folder import push_run

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
UNFINISHED = "**An unfinished run**, after step {step}: this model may still know what it is to forget."


class Publishing:
    """Mixin before `transformers.Trainer`: the same methods, which push through `push_run`.

    Attributes:
        measured: the report of this run for the card, None before `report` was called.
        hub_branch: the branch of the first push of this run, where the next ones go too.
    """

    measured: UnlearningReport | None = None
    hub_branch: str | None = None
    _saved_to_push = 0

    args: Any
    model: Any
    state: Any
    hub_model_id: Any
    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, private by default.

        Args:
            token: token with write right. None (default): `hub_token` of the arguments, else the token of the login.
            private: whether a new repository is private. None (default): `hub_private_repo` of the arguments, else True.

        Raises:
            PushError: the token has no right to create it, or every push of the run would replace the original.
        """
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = (self.args.hub_private_repo if private is None else private) is not False
        settings = {"token": token or self.args.hub_token, "private": private, "exist_ok": True}
        with explained(name):
            self.hub_model_id = patiently(HfApi().create_repo, name, patience=Patience(), **settings).repo_id
        self.push_in_progress = None
        if self.args.push_to_hub and self.args.hub_revision == "main" and self._original_name() == self.hub_model_id:
            raise PushError(IS_ORIGINAL.format(branch="main", repo=name) + REMEDY.format(repo=name))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write `README.md` into the output folder. The arguments are those of the base class."""
        card = dict(locals())
        del card["self"]
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            report = "" if self.measured is None else self.measured.to_markdown()
            write_plain_card(Path(self.args.output_dir), self._original_name(), report, fields=card_fields(card))

    def _original_name(self) -> str | None:
        """Hub id of the model that was loaded, None if it came from a folder."""
        name = getattr(self.model.config, "_name_or_path", None)
        return name if name and not is_local(name) else None

    def push_to_hub(
        self,
        commit_message: str | None = "Unlearned model",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        overwrite_original: str | None = None,
        **card: Any,
    ) -> Any:
        """Push model, processor, card and the last report as one commit, see `push_folder`.

        Args:
            commit_message, blocking, token, revision, private: as in the base class, but private by default.
            overwrite_original: full name of the repository, if the push is to replace the original in it (default None).
            card: arguments of `create_model_card`.

        Returns:
            The commit (`CommitInfo`), a `Future` of it if `blocking` is False, None on other processes than the first.

        Raises:
            PushError: the push failed, see `push_folder`. The model stays in the trainer.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)  # type: ignore[attr-defined]
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        saved = self._save_to_push()
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return None
        self._finish_current_push()  # type: ignore[attr-defined]
        settings = {"message": commit_message, "token": token, "revision": revision}
        settings["overwrite_original"] = overwrite_original
        job = self._pushing.submit(self._push, saved, card, "", **settings)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With `hub_strategy="every_save"`: push the model as it is, in the background. A failure is only logged."""
        if self.args.hub_strategy == "end":
            return
        saved = self._save_to_push()
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        is_pushing = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_pushing and not self.args.hub_always_push:
            shutil.rmtree(saved)
            return
        from transformers.utils.hub import PushInProgress

        self.callback_handler.on_push_begin(self.args, self.state, self.control)  # type: ignore[attr-defined]
        step = self.state.global_step
        note, message = UNFINISHED.format(step=step), f"Unlearning in progress, step {step}"
        job = self._pushing.submit(self._push, saved, {}, note, message=message)
        job.add_done_callback(_log_failure)
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if is_pushing else []), job])

    @cached_property
    def _pushing(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="push")

    def _save_to_push(self) -> Path:
        """Save the model beside the checkpoints and return the folder. All processes take part, as a sharded model needs."""
        self._saved_to_push += 1
        folder = Path(self.args.output_dir) / f".pushed-{self._saved_to_push}"
        self.save_model(str(folder / MODEL_FOLDER), _internal_call=True)  # type: ignore[attr-defined]
        return folder

    def _push(self, saved: Path, card: dict[str, Any], note: str, **settings: Any) -> Any:
        try:
            if self.measured is not None and not note:
                self.measured.save(saved, figures=find_spec("matplotlib") is not None)
            fields = card_fields(card)
            settings["base_model"] = fields.get("base_model") or self._original_name()
            settings["token"] = settings.get("token") or self.args.hub_token
            settings["revision"] = settings.get("revision") or self.args.hub_revision or self.hub_branch
            pushed = push_run(saved, self.hub_model_id, note=note, card=fields, **settings)
        finally:
            shutil.rmtree(saved, ignore_errors=True)
        self.hub_branch = pushed.revision
        return pushed.commit


def card_fields(card: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `Trainer.create_model_card` as fields of a card's front matter, without those that are None."""
    names = {"finetuned_from": "base_model", "dataset_tags": "datasets", "dataset": "datasets", "tasks": "pipeline_tag"}
    # `dataset_args` describes results, which a report names. In reversed order `dataset_tags` replaces `dataset`.
    given = [(k, v) for k, v in card.items() if v is not None and k != "dataset_args"]
    fields = {names.get(k, k): v for k, v in reversed(given)}
    if isinstance(task := fields.get("pipeline_tag"), list):
        fields["pipeline_tag"] = task[0]
    return fields


def _log_failure(job: Future[Any]) -> None:
    if job.exception() is not None:
        logger.warning("The model was not pushed during the run: %s", job.exception())

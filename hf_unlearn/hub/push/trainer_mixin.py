"""How `UnlearningTrainer` publishes: the base class would upload its whole output folder, pickles and all."""

from __future__ import annotations

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
CARD_ARGUMENTS = (
    "language", "license", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args",
)  # fmt: skip
UNFINISHED = "**An unfinished run**, after step {step}: this model may still know what it is to forget."


class Publishing:
    """Mixin before `transformers.Trainer`: the same methods, through `push_folder`.

    Attributes:
        measured: the report of this run, which the card shows.
        hub_branch: where the first push of this run went, and the next ones go.
    """

    measured: UnlearningReport | None = None
    hub_branch: str | None = None
    _saved_to_push = 0

    args: Any
    model: Any
    state: Any
    hub_model_id: str | None
    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, privately unless told otherwise.

        Raises:
            PushError: the token has no right to, or every push of the run would go over the original.
        """
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        given = private if private is not None else self.args.hub_private_repo
        settings = {"token": token or self.args.hub_token, "private": given is not False, "exist_ok": True}
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
        """Write `README.md` into the output folder; arguments as in the base class."""
        card = {k: v for k, v in locals().items() if k in CARD_ARGUMENTS}
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            report = "" if self.measured is None else self.measured.to_markdown()
            write_plain_card(Path(self.args.output_dir), self._original_name(), report, fields=card_fields(card))

    def _original_name(self) -> str | None:
        """Hub id of what the model was loaded from, None for a folder."""
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
            commit_message, blocking, token, revision, private: as in the base class; a new repository is private by default.
            overwrite_original: full name of the repository, where the original in it is to be replaced.
            card: arguments of `create_model_card`.

        Returns:
            The commit (`CommitInfo`), a `Future` of it without `blocking`, None on other processes than the first.

        Raises:
            PushError: it did not arrive, see `push_folder`. The model is kept where it was.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)  # type: ignore[attr-defined]
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        settings = {"message": commit_message, "token": token or self.args.hub_token}
        settings |= {"revision": revision or self.args.hub_revision}
        saved = self._save_to_push()
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return None
        self._finish_current_push()  # type: ignore[attr-defined]
        job = self._pushing.submit(self._push, saved, card, "", overwrite_original=overwrite_original, **settings)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With `hub_strategy="every_save"`: push the model as it is, in the background; a failure is only logged."""
        if self.args.hub_strategy == "end":
            return
        saved = self._save_to_push()
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            shutil.rmtree(saved)
            return
        from transformers.utils.hub import PushInProgress

        self.callback_handler.on_push_begin(self.args, self.state, self.control)  # type: ignore[attr-defined]
        step = self.state.global_step
        settings = {"message": f"Unlearning in progress, step {step}", "token": self.args.hub_token}
        job = self._pushing.submit(
            self._push,
            saved,
            {},
            UNFINISHED.format(step=step),
            revision=self.args.hub_revision,
            **settings,
        )
        job.add_done_callback(_tell)
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if busy else []), job])

    @cached_property
    def _pushing(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="push")

    def _save_to_push(self) -> Path:
        """Save the model beside the checkpoints, on all processes, as sharded ones need; returns the folder."""
        self._saved_to_push += 1
        folder = Path(self.args.output_dir) / f".pushed-{self._saved_to_push}"
        self.save_model(str(folder / MODEL_FOLDER), _internal_call=True)  # type: ignore[attr-defined]
        return folder

    def _push(self, saved: Path, card: dict[str, Any], note: str, revision: str | None, **settings: Any) -> Any:
        assert self.hub_model_id is not None
        try:
            if self.measured is not None and not note:
                self.measured.save(saved, figures=find_spec("matplotlib") is not None)
            fields = card_fields(card)
            base = fields.get("base_model") or self._original_name()
            settings |= {"revision": revision or self.hub_branch, "base_model": base, "note": note, "card": fields}
            pushed = push_run(saved, self.hub_model_id, **settings)
        finally:
            shutil.rmtree(saved, ignore_errors=True)
        self.hub_branch = pushed.revision
        return pushed.commit


def card_fields(card: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Trainer.create_model_card` as fields of a card's front matter; those that are None are left out."""
    given = {k: v for k, v in card.items() if v is not None}
    given.pop("dataset_args", None)  # of results, which a report names
    names = {"finetuned_from": "base_model", "dataset_tags": "datasets", "dataset": "datasets", "tasks": "pipeline_tag"}
    fields = {names.get(k, k): v for k, v in reversed(given.items())}  # tags of data sets before their names
    task = fields.get("pipeline_tag")
    return fields | ({"pipeline_tag": task[0]} if isinstance(task, list) else {})


def _tell(job: Future[Any]) -> None:
    if job.exception() is not None:
        logger.warning("The model was not pushed during the run: %s", job.exception())

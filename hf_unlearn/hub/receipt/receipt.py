"""The deletion receipt, `unlearning_receipt.json`: what was forgotten, from which model, how, with what result, in which files.

What each side can do with it:

- **A reader** learns the number of forgotten rows and one Merkle root over keyed digests of them. Every digest of rows is keyed
  with a secret of the owner (`forgotten_rows.py`), so no digest can test a guess of a row, not even with the whole data set at
  hand. The receipt leaves out what would name rows: row numbers, seed and share of a random request, names of columns, values,
  paths. Counts and metrics remain. Whoever has the data and the models can use them as evidence about a guess of the whole
  request. A request drawn by a small or common seed has few candidates, because anyone can repeat the draw: take a random seed,
  and keep it secret.
- **The owner**, with the private file, can prove to a third party that one row was in the request, without showing the others.
- **A changed file** is found: the receipt holds the SHA-256 of every published file and of itself (`sealing.py`). Whoever can
  change files can also write another receipt; only a signature (`signing.py`) prevents that.
- The receipt does not prove that the model forgot. Its metrics and an audit are evidence for that. A request for a whole class
  of a public data set names its rows, and no cryptography hides them.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils import VERSION
from ...utils.files import file_digest
from ...utils.hub_names import snapshots
from ..layout import RECEIPT
from .canonical_json import hub_id, plain, words
from .forgotten_rows import SCHEME, ForgottenRows
from .sealing import RECEIPT_SCHEMA, write_receipt

if TYPE_CHECKING:
    from ...data.forget_request import ForgetRequest
    from ...evaluation.report.report import UnlearningReport
    from ...training.protocols import FinishedRun

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "pillow", "safetensors")
NAMED_CHOICES = {
    "method",
    "update",
    "forget_kind",
    "train_sampling_strategy",
}  # arguments whose text is no path, name or token
METRICS = ("models", "gap", "intervals")  # of a report
USUAL_WEIGHTS = re.compile(r"(adapter_|pytorch_)?model(-\d{5}-of-\d{5})?\.safetensors")
SET_ROWS = 100_000  # rows of a kept set that are digested


def build_receipt(
    forgotten: ForgottenRows,
    *,
    request: Mapping[str, Any],
    data: Mapping[str, Any],
    base_model: Mapping[str, Any],
    method: Mapping[str, Any],
    arguments: Mapping[str, Any],
    started: datetime,
    ended: datetime,
    outcome: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    previous: str | None = None,
) -> dict[str, Any]:
    """Return the receipt without its files, for `write_receipt`. Names in it are made inert and short, paths become `local`.

    Args:
        forgotten: the owner's side of the request.
        request: `kind`, `classes` and `selected_by`; see `describe_request`.
        data: `id`, `revision`, … and `sets`: name -> `rows`, `digested` and the keyed `digest`.
        base_model: `id`, `revision`, `weights` (file -> SHA-256), `tensors`.
        method: name and settings of the method.
        arguments: the training arguments. `seed` and `data_seed` are repeated under `seeds`.
        started: when the run started, with a time zone.
        ended: when the run ended, with a time zone.
        outcome: how the run ended. Default None: empty.
        metrics: `models`, `gap` and `intervals` of a report. Default None: empty.
        previous: SHA-256 of the receipt beside the model that this run started from. Default None: there was none.
    """
    public = {"request": request, "data": data, "method": method, "arguments": arguments}
    clear = plain({**public, "outcome": outcome or {}, "metrics": metrics or {}, "versions": _versions()})
    weights = _without_names(base_model.get("weights", {}))
    return {
        **clear,
        "schema": RECEIPT_SCHEMA,
        "request": {"id": forgotten.request, **clear["request"]},
        "forgotten_rows": {"rows": len(forgotten.leaves), "root": forgotten.tree.root.hex(), "scheme": SCHEME},
        "data": {**clear["data"], "id": hub_id(data.get("id"))},
        "base_model": {**base_model, "id": hub_id(base_model.get("id")), "weights": weights},
        "seeds": {name: clear["arguments"].get(name) for name in ("seed", "data_seed")},
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "ended": ended.astimezone(UTC).isoformat(timespec="seconds"),
        "previous": previous,
        "covers": None,
        "files": {},
        "digest": "",
    }


@dataclass(frozen=True)
class Receipt:
    """The public and the private side of one request.

    Attributes:
        public: the receipt without the digests of files, which `save` adds.
        forgotten: the owner's side.

    Example:
        ```python
        trainer.save_model("published")
        receipt = Receipt.from_trainer(trainer, report, retain_dataset=split.retain)
        receipt.save("published", private="at-home/forgotten_rows.private.json")
        ```
    """

    public: dict[str, Any]
    forgotten: ForgottenRows

    @classmethod
    def from_trainer(
        cls,
        trainer: FinishedRun,
        report: UnlearningReport | None = None,
        *,
        request: ForgetRequest | None = None,
        request_id: str | None = None,
        retain_dataset: Any | None = None,
        test_dataset: Any | None = None,
        model: str | None = None,
        model_revision: str | None = None,
        dataset: Mapping[str, Any] | None = None,
        previous: str | None = None,
    ) -> Receipt:
        """Build the receipt of a finished run. It reads every forget row once, and at most 100,000 rows of each other set.

        Args:
            trainer: the trainer of the run.
            report: its report, for the metrics. Default None: no metrics.
            request: the request that was split, for the kinds of its criteria. Default None: none are named.
            request_id: an id that does not identify a person. Default None: a random id.
            retain_dataset: the retain set of the report. Default None: the retain set of the trainer.
            test_dataset: the test set of the report. Default None: none.
            model: Hub id or folder of the original. Default None: what the model's configuration says. A Hub id is published only
                if the Hub's cache holds a model of this name.
            model_revision: revision of the original, used if its configuration names no commit. Default None: `main`.
            dataset: `id` on the Hub, `revision`, `config` and `split` of the training set. Default None: not named.
            previous: SHA-256 of the receipt before this one. Default None: of the receipt beside `model`, if there is one.

        Raises:
            RuntimeError: `train()` has not run.
        """
        if trainer.outcome is None:
            raise RuntimeError("`from_trainer()` needs a finished run: call `train()` first.")
        # The rows as they were given: the trainer's own may have other label numbers.
        forget, retain = (trainer.given[f"{side}_dataset"] for side in ("forget", "retain"))
        forgotten = ForgottenRows.commit(() if forget is None else forget, request_id)
        retain = retain if retain_dataset is None else retain_dataset
        named = {"retain": retain, "test": test_dataset}
        sets = {name: _describe_set(forgotten, name, rows) for name, rows in named.items() if rows is not None}
        folder, base_model = describe_base(trainer, model, model_revision)
        if previous is None and folder is not None and (folder / RECEIPT).is_file():
            previous = file_digest(folder / RECEIPT)
        # A resumed run counts from its first start, without the pause. Warnings are left out, because they may quote names.
        started = datetime.now(UTC) - timedelta(seconds=time.perf_counter() - trainer.started)
        outcome = {k: v for k, v in trainer.outcome.as_dict().items() if k not in ("warnings", "cautions", "path")}
        public = build_receipt(
            forgotten,
            request=describe_request(trainer, request),
            data={**(dataset or {}), "sets": sets},
            base_model=base_model,
            method=trainer.method.describe(),
            arguments=_arguments(trainer),
            started=started,
            ended=started + timedelta(seconds=trainer.seconds),
            outcome={"ok": trainer.outcome.ok, **outcome},
            metrics={} if report is None else {name: getattr(report, name) for name in METRICS},
            previous=previous,
        )
        return cls(public, forgotten)

    def save(self, folder: str | Path, private: str | Path, covers: list[str] | None = None) -> dict[str, Any]:
        """Write the owner's side to `private`, then the receipt with the digests of the files into `folder`.

        Args:
            folder: the folder that will be published.
            private: file for the owner's side, outside of what is published.
            covers: files and folders in `folder` that are published. Default None: all of them.

        Raises:
            ValueError: `private` lies among the files that would be published.
        """
        folder, private = Path(folder), Path(private)
        inside = private.resolve().is_relative_to(folder.resolve())
        if inside and (covers is None or private.resolve().relative_to(folder.resolve()).parts[0] in covers):
            raise ValueError(f"`private={str(private)!r}` lies in the folder to publish. Keep it elsewhere.")
        self.forgotten.save(private)
        return write_receipt(folder, {**self.public, "covers": covers})


def describe_request(run: FinishedRun, request: ForgetRequest | None) -> dict[str, Any]:
    """Describe the request without naming a row: classes by number, other criteria by kind, without values."""
    if run.forget_dataset is None:
        return {"kind": "attribute", "classes": [], "selected_by": ["attribute"]}
    return {
        "kind": run.args.forget_kind,
        "classes": sorted(run.reference.forgotten_classes),
        "selected_by": sorted(criteria_of(request)) if request is not None else [],
    }


def criteria_of(request: ForgetRequest) -> set[str]:
    """Return the kinds of the criteria that a request names rows by."""
    given = {"label", "column", "indices", "ids_file", "fraction", "predicate"}
    own = {name for name in given if getattr(request, name) is not None}
    return own.union(*(criteria_of(part) for part in (*request.union, *request.intersection)))


def _describe_set(forgotten: ForgottenRows, name: str, rows: Any) -> dict[str, Any]:
    if not hasattr(rows, "__len__"):
        return {"rows": None, "digested": 0, "digest": None}  # The set is a stream.
    digest = forgotten.set_digest(name, rows, SET_ROWS)
    return {"rows": len(rows), "digested": min(len(rows), SET_ROWS), "digest": digest}


def describe_base(run: FinishedRun, model: str | None, revision: str | None) -> tuple[Path | None, dict[str, Any]]:
    """Return the folder of the original model, if it still exists, and the entry `base_model` of the receipt."""
    from ...models.forward import unwrap
    from ...models.snapshot import joint_digest

    config: Any = unwrap(run.model).config
    source = model or getattr(config, "_name_or_path", None) or ""
    revision = getattr(config, "_commit_hash", None) or revision
    local = bool(source) and Path(source).is_dir()
    folder = Path(source) if local else _cached(source, revision)
    if folder is not None and folder.parent.name == "snapshots":
        revision = folder.name  # its name is the commit
    weights = {} if folder is None else {p.name: file_digest(p) for p in sorted(folder.glob("*.safetensors"))}
    # A name that the Hub's cache does not know may be a folder that was deleted, or that belongs to another working directory.
    name = hub_id(source) if not local and snapshots(source).is_dir() else "local"
    return folder, {
        "id": name,
        "revision": None if name == "local" else words(revision or "main"),
        "weights": weights,
        "tensors": joint_digest(run.original_fingerprints),
    }


def _without_names(weights: Mapping[str, str]) -> dict[str, str]:
    """Return `weights` (file -> SHA-256) with other than the usual names replaced by numbers, because they may say anything."""
    others = sorted(name for name in weights if not USUAL_WEIGHTS.fullmatch(name))
    shown = {name: f"weights-{number}.safetensors" for number, name in enumerate(others, 1)}
    return {shown.get(name, name): digest for name, digest in weights.items()}


def _cached(source: str, revision: str | None) -> Path | None:
    """Return the snapshot of a Hub id in the cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _arguments(run: FinishedRun) -> dict[str, Any]:
    """Return the training arguments that are numbers or choices, not names, paths, addresses or tokens, and the adapters."""
    from ...models.forward import unwrap

    given = {f.name: getattr(run.args, f.name) for f in fields(run.args) if f.init}
    kept = (bool, int, float, Enum, Mapping)
    out = {k: v for k, v in given.items() if isinstance(v, kept) or (k in NAMED_CHOICES and v is not None)}
    adapters: Any = getattr(unwrap(run.model), "peft_config", None)
    return {**out, "adapters": {name: a.to_dict() for name, a in adapters.items()}} if adapters else out


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "hf_unlearn": VERSION}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found

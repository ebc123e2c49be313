"""The deletion receipt, `unlearning_receipt.json`: what was forgotten from which model, how, with what result, and by which files.

What it is good for, and against whom:

- **A reader of the receipt** learns the number of forgotten rows and one Merkle root over keyed digests of them. No digest in it
  can test a guess of a row, not even with the whole data set at hand: every digest of rows, of the kept sets too, is keyed with a
  secret of the owner (`forgotten.py`). Row numbers, seed and share of a random request, column names and values are left out, for
  they would name the rows; no path is in it. Numbers remain: counts and metrics, with data and models at hand, can speak against a
  guess of the whole request. A request that a small or a usual seed drew has few candidates, and anyone can redo the draw: take
  a random seed, and keep it.
- **The owner**, with the private file, proves that a row was in the request, to a third party for one row without the others.
- **A changed file** shows: the receipt holds the SHA-256 of every published file and one of itself (`sealing.py`). Who can change files
  can write another receipt as well; only a signature (`signing.py`) keeps them from it.
- It does not prove that the model forgot. That is for the metrics in it, and for an audit, to say. A request for a whole class of a
  public data set names its rows by itself, and no cryptography hides that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

PACKAGES = ("hf_unlearn", "torch", "transformers", "datasets", "accelerate", "peft", "numpy", "pillow", "safetensors")
NAMED_CHOICES = {"method", "update", "forget_kind", "train_sampling_strategy"}  # text that is no place, name or token
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
    """The receipt without its files, for `write_receipt`. Names in it are made inert and short, paths become `local`.

    Args:
        request: `kind`, `classes` and `selected_by`; see `describe_request`.
        data: `id`, `revision`, … and `sets`: name -> `rows`, `digested` and the keyed `digest`.
        base_model: `id`, `revision`, `weights` (file -> SHA-256), `tensors`.
        arguments: of the training; `seed` and `data_seed` are repeated under `seeds`.
        metrics: `models`, `gap` and `intervals` of a report.
        previous: SHA-256 of the receipt file of the request before this one, beside the model that this one started from.
    """
    clear = plain(
        {
            "request": request,
            "data": data,
            "method": method,
            "arguments": arguments,
            "outcome": outcome or {},
            "metrics": metrics or {},
            "versions": _versions(),
        }
    )
    return {
        **clear,
        "schema": RECEIPT_SCHEMA,
        "request": {"id": forgotten.request, **clear["request"]},
        "forgotten_rows": {"rows": len(forgotten.leaves), "root": forgotten.tree.root.hex(), "scheme": SCHEME},
        "data": {**clear["data"], "id": hub_id(data.get("id"))},
        "base_model": {
            **base_model,
            "id": hub_id(base_model.get("id")),
            "weights": _without_names(base_model.get("weights", {})),
        },
        "seeds": {name: clear["arguments"].get(name) for name in ("seed", "data_seed")},
        "started": _utc(started),
        "ended": _utc(ended),
        "previous": previous,
        "covers": None,
        "files": {},
        "digest": "",
    }


@dataclass(frozen=True)
class Receipt:
    """The public and the private side of one request.

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
        """The receipt of a finished run; every forget row is read once, and at most `SET_ROWS` of each other set.

        Args:
            request: what was asked, for the words of it.
            request_id: an id that says nothing about a person; by default random.
            retain_dataset, test_dataset: the sets of the report; by default the trainer's retain set and none.
            model: Hub id or folder that the original came from; by default what its configuration says. An id is told only where
                the Hub's cache holds a model of this name.
            dataset: `id` on the Hub, `revision`, `config`, `split` of the training set.
            previous: SHA-256 of the receipt file before this one; by default of the one beside `model`.

        Raises:
            RuntimeError: `train()` has not run.
        """
        if trainer.outcome is None:
            raise RuntimeError("`from_trainer()` needs a finished run: call `train()` first.")
        forgotten = ForgottenRows.commit(() if trainer.forget_dataset is None else trainer.forget_dataset, request_id)
        retain = trainer.retain_dataset if retain_dataset is None else retain_dataset
        sets = {
            name: _describe_set(forgotten, name, rows)
            for name, rows in (("retain", retain), ("test", test_dataset))
            if rows is not None
        }
        folder, base_model = describe_base(trainer, model, model_revision)
        if previous is None and folder is not None and (folder / RECEIPT).is_file():
            previous = file_digest(folder / RECEIPT)
        seconds = time.perf_counter() - trainer.started  # since it began; of a resumed run without the pause
        started = datetime.now(UTC) - timedelta(seconds=seconds)
        outcome = {
            k: v for k, v in trainer.outcome.as_dict().items() if k not in ("warnings", "path")
        }  # warnings may quote names
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
        """Write the key to `private`, then the receipt into `folder`, sealed over the files there (or those `covers` names).

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
    """What was asked, in words that name no row: classes by their numbers, other criteria by their kind, without values."""
    if run.forget_dataset is None:
        return {"kind": "attribute", "classes": [], "selected_by": ["attribute"]}
    return {
        "kind": run.args.forget_kind,
        "classes": sorted(run.reference.forgotten_classes),
        "selected_by": sorted(_criteria(request)) if request is not None else [],
    }


def _criteria(request: ForgetRequest) -> set[str]:
    given = {"label", "column", "indices", "ids_file", "fraction", "predicate"}
    own = {name for name in given if getattr(request, name) is not None}
    return own.union(*(_criteria(part) for part in (*request.union, *request.intersection)))


def _describe_set(forgotten: ForgottenRows, name: str, rows: Any) -> dict[str, Any]:
    if not hasattr(rows, "__len__"):
        return {"rows": None, "digested": 0, "digest": None}  # a stream
    digest = forgotten.set_digest(name, rows, SET_ROWS)
    return {"rows": len(rows), "digested": min(len(rows), SET_ROWS), "digest": digest}


def describe_base(run: FinishedRun, model: str | None, revision: str | None) -> tuple[Path | None, dict[str, Any]]:
    """The folder that the original was loaded from, if it is at hand, and the original for a receipt."""
    from ...models.forward import unwrap
    from ...models.snapshot import joint_digest

    config: Any = unwrap(run.model).config
    source = model or getattr(config, "_name_or_path", None) or ""
    revision = getattr(config, "_commit_hash", None) or revision
    local = bool(source) and Path(source).is_dir()
    folder = Path(source) if local else _cached(source, revision)
    if folder is not None and folder.parent.name == "snapshots":
        revision = folder.name  # the commit
    weights = {} if folder is None else {p.name: file_digest(p) for p in sorted(folder.glob("*.safetensors"))}
    # Without a place in the Hub's cache it may be a folder that is gone, or of another working directory.
    name = hub_id(source) if not local and snapshots(source).is_dir() else "local"
    return folder, {
        "id": name,
        "revision": None if name == "local" else words(revision or "main"),
        "weights": weights,
        "tensors": joint_digest(run.original_fingerprints),
    }


def _without_names(weights: Mapping[str, str]) -> dict[str, str]:
    """`weights` (file -> SHA-256) with the usual names; files of others, which may say anything, are numbered."""
    others = sorted(name for name in weights if not USUAL_WEIGHTS.fullmatch(name))
    shown = {name: f"weights-{number}.safetensors" for number, name in enumerate(others, 1)}
    return {shown.get(name, name): digest for name, digest in weights.items()}


def _cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a Hub id on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _arguments(run: FinishedRun) -> dict[str, Any]:
    """The training arguments that are set, numbers and choices, without names, places, addresses or tokens; and adapters."""
    from ...models.forward import unwrap

    given = {f.name: getattr(run.args, f.name) for f in fields(run.args) if f.init}
    kept = (bool, int, float, Enum, Mapping)
    out = {k: v for k, v in given.items() if isinstance(v, kept) or (k in NAMED_CHOICES and v is not None)}
    adapters: Any = getattr(unwrap(run.model), "peft_config", None)
    return {**out, "adapters": {name: a.to_dict() for name, a in adapters.items()}} if adapters else out


def _versions() -> dict[str, str]:
    import platform

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")

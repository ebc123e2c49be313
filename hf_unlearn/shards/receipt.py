"""The receipt of an exact deletion: which shards were trained again, that all others are as they were, and what that covers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data.forget_request import ForgetRequest
from ..hub.layout import RECEIPT
from ..hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows
from ..hub.receipt.receipt import Receipt, build_receipt, criteria_of
from ..hub.receipt.sealing import read_receipt
from ..models.sharded_classifier import SHARD, SHARDING, Sharding
from ..utils.files import file_digest
from ..utils.hub_names import is_local
from .version import Version

SCOPE = "the rows of the shards; not the base, chosen settings or earlier versions"


def write_exact_receipt(
    folder: Path,
    version: Version,
    sharding: Sharding,
    rows: Any,
    request: ForgetRequest | None,
    request_id: str | None,
    started: datetime,
    steps: dict[str, int],
) -> None:
    """Write the receipt of the version in `folder`, and the owner's side into its private part.

    Args:
        folder: the new version, which is whole but for this.
        version: the one before it.
        sharding: the public description of the new one.
        rows: the deleted rows that the data set still held.
        request: what named them. None: only rows that the data set no longer held.
        request_id: an id that identifies no person. None: a random one.
        started: when the work began.
        steps: `trained` now, and `all` that training every shard anew would take.
    """
    forgotten = ForgottenRows.commit(rows, request_id)
    trained = [i for i, shard in enumerate(sharding.shards) if shard["trained"]]
    kept = {SHARD.format(i): s["weights"] for i, s in enumerate(sharding.shards) if not s["trained"] and s["rows"]}
    former = version.folder / RECEIPT
    public = build_receipt(
        forgotten,
        request={"kind": "samples", "classes": [], "selected_by": [] if request is None else sorted(criteria_of(request))},
        data={"id": None, "sets": {}},
        base_model={
            "id": None if is_local(sharding.base) else sharding.base,
            "revision": sharding.base_revision,
            "weights": {},
            "tensors": sharding.base_weights,
        },
        method={"method": "shards", "num_shards": len(sharding.shards), "slices": sharding.slices},
        arguments={"seed": sharding.seed, **sharding.settings},
        started=started,
        ended=datetime.now(UTC),
        outcome={
            "ok": True, "exact": True, "exact_for": SCOPE, "trained_shards": trained, "unchanged_shards": kept,
            "previous_version": sharding.previous, "steps": steps["trained"], "steps_of_all_shards": steps["all"],
        },
        previous=file_digest(former) if former.is_file() else None,
    )  # fmt: skip
    covers = sorted(entry.name for entry in folder.iterdir() if entry.name != PRIVATE_FOLDER)
    Receipt(public, forgotten).save(folder, folder / PRIVATE_FOLDER / PRIVATE_FILE, covers)


def untouched_problems(folder: str | Path, previous: str | Path) -> list[str]:
    """Return what speaks against a receipt that says which shards are as they were before; no line: nothing does.

    Args:
        folder: the version with the receipt, published or not.
        previous: the version before it.

    Raises:
        ValueError: the receipt is missing or damaged, or is none of an exact deletion.
    """
    folder, previous = Path(folder), Path(previous)
    outcome = read_receipt(folder / RECEIPT)["outcome"]
    if not outcome.get("exact"):
        raise ValueError(
            f"{folder / RECEIPT} is no receipt of a deletion from shards, so it claims nothing about them."
        )
    before, now = Sharding.load(previous / SHARDING), Sharding.load(folder / SHARDING)
    problems = []
    if outcome["previous_version"] != file_digest(previous / SHARDING):
        problems.append(f"{SHARDING}: the version before it was another one than {previous}")
    if (before.base, before.base_revision, before.base_weights) != (now.base, now.base_revision, now.base_weights):
        problems.append("the base is another one than before")
    for name, digest in outcome["unchanged_shards"].items():
        for place, found in (("before", previous), ("now", folder)):
            weights = found / name / "adapter_model.safetensors"
            if not weights.is_file() or file_digest(weights) != digest:
                problems.append(f"{name}: its weights {place} are not those that the receipt calls unchanged")
    changed = {SHARD.format(i) for i in outcome["trained_shards"]}
    silent = [
        SHARD.format(i) for i in now.present if SHARD.format(i) not in changed | outcome["unchanged_shards"].keys()
    ]
    problems += [f"{name}: the receipt does not say whether it changed" for name in silent]
    return problems

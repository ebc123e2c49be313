"""What a deletion or an addition costs, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.forget_request import ForgetRequest
from .assignment import Assignment, Ids
from .shard_training import ShardWork, plan_shard
from .version import Version


@dataclass(frozen=True)
class Plan:
    """What a request costs, before anything is trained.

    Attributes:
        ids: the rows of every shard afterwards.
        work: the shards that change.
        rows: ids of the rows that are deleted or added.
        all_steps: steps of training every shard anew.
        seconds: expected on one process; None if no training was timed.
    """

    ids: Ids
    work: list[ShardWork]
    rows: list[str]
    all_steps: int
    seconds: float | None

    @property
    def steps(self) -> int:
        return sum(work.steps_left for work in self.work)

    def sentence(self) -> str:
        """Return the plan in words."""
        told = "" if self.seconds is None else f", about {self.seconds:,.0f} s on one process"
        return (
            f"{len(self.rows):,} rows in {len(self.work)} of {len(self.ids)} shards: {self.steps:,} of {self.all_steps:,} steps "
            f"({self.steps / max(1, self.all_steps):.1%} of training all shards anew){told}."
        )


def plan_version(version: Version, ids: Ids, changed: Sequence[str]) -> Plan:
    """Return what it takes to have a version with the rows `ids` in place of those of `version`."""
    places, sharding = [version.checkpoints], version.sharding
    every = [plan_shard(sharding, i, part, version.key, places) for i, part in enumerate(ids)]
    work = [w for w, part, former in zip(every, ids, version.ledger.ids, strict=True) if part != former]
    pace = version.ledger.seconds_per_step
    steps, all_steps = sum(w.steps_left for w in work), sum(sum(w.steps) for w in every)
    return Plan(ids, work, list(changed), all_steps, None if pace is None else steps * pace)


def plan_deletion(version: Version, rows: Any, found: Assignment, request: ForgetRequest | None, missing: bool) -> Plan:
    """Return what it takes to delete the rows of a request, and, if `missing`, those that the data set no longer holds.

    Raises:
        ValueError: there are rows that the model was not trained on, or others are missing, or nothing or everything is selected.
    """
    lost, extra = differences(version, found)
    if extra:
        raise ValueError(
            f"`dataset` holds {len(extra):,} rows that the shards were not trained on. Train on them first, with `hf-unlearn shards add`, "
            "or give the data set of the training."
        )
    if lost and not missing:
        raise ValueError(missing_rows(lost))
    gone = set(lost)
    if request is not None:
        asked = {name for name, chosen in zip(found.places, request.mask(rows), strict=True) if chosen}
        if asked and asked <= set(version.ledger.deleted) and not gone:
            raise ValueError(f"All {len(asked):,} rows of this request were deleted by an earlier one.")
        gone |= asked & version.ledger.known
    if not gone:
        named = "the request" if request is None else f"the request ({request.describe()})"
        raise ValueError(f"{named[0].upper()}{named[1:]} selects no row that this model was trained on.")
    if gone == version.ledger.known:
        raise ValueError(
            "The request deletes every row, so nothing would be left that could answer. Delete the model instead."
        )
    ids: Ids = [[[n for n in part if n not in gone] for part in shard] for shard in version.ledger.ids]
    return plan_version(version, ids, sorted(gone))


def differences(version: Version, found: Assignment) -> tuple[list[str], list[str]]:
    """Return the ids of rows that the data set no longer holds, and of those that the model was not trained on."""
    known, deleted = version.ledger.known, set(version.ledger.deleted)
    return sorted(known - found.places.keys()), sorted(found.places.keys() - known - deleted)


def missing_rows(missing: Sequence[str]) -> str:
    """Say that the data set lacks rows of the training, and what to do."""
    return (
        f"`dataset` lacks {len(missing):,} rows that the shards were trained on, or they changed. Restore them, or delete what they taught "
        "with `--forget_missing true` (`missing=True`)."
    )

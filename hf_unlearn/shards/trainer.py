"""`ShardedTrainer`: train adapters on shards of the rows, delete rows from them exactly, and add rows."""

import itertools
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets

from ..data.forget_request import ForgetRequest
from ..hub.layout import RECEIPT
from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..hub.receipt.signing import signature_file
from ..models.pretrained import load_processing_class
from ..models.sharded_classifier import SHARD, SHARDING, ShardedClassifier, Sharding
from ..utils.files import file_digest
from .assignment import Assignment, Ids, assign, balance, group_digests, row_ids
from .deletion_queue import DeletionQueue
from .jobs import ShardJob, check_held_out, prepared_rows, run_jobs, save_processing
from .plan import Plan, differences, missing_rows, plan_deletion, plan_version
from .receipt import write_exact_receipt
from .settings import ShardSettings, sharding_of
from .shard_training import CHECKPOINT, ShardWork, find_checkpoint, plan_shard, shard_model, versions, weights_of_shard
from .shard_weights import fit_weights
from .version import CHECKPOINTS, Ledger, Version, copy_file, copy_whole, key_of, new_version, write_ledger

logger = logging.getLogger(__name__)
Tell = Callable[[str], object]


class ShardedTrainer:
    """Trains a `ShardedClassifier`, and makes new versions of it without some rows, or with more.

    A deletion gives the same bits as training from the start without the rows: a shard depends on the base, the settings and its own
    rows alone, and which rows these are depends on each row alone. This is exact for the rows of the fine-tuning. It says nothing of
    what the base has seen, of hyper-parameters that were chosen with the rows, or of earlier versions that were given away.

    Args:
        num_processes: processes that train shards side by side. The result does not depend on it. Default 1.
        use_cpu: True to train on the CPU though there is a GPU. Default False.
        tell: called with each sentence about the progress. Default: the logger.

    Example:
        ```python
        trainer = ShardedTrainer()
        model = trainer.train("org/base", rows, "sharded", settings=ShardSettings(group_column="user_id"))
        trainer.forget("sharded", rows, ForgetRequest(column="user_id", values=["u123"]), "sharded-2")
        ```
    """

    def __init__(self, *, num_processes: int = 1, use_cpu: bool = False, tell: Tell = logger.info) -> None:
        if num_processes < 1:
            raise ValueError(f"`num_processes` must be at least 1, got {num_processes}.")
        self.num_processes, self.use_cpu, self.tell = num_processes, use_cpu, tell

    def train(
        self,
        model: str,
        train_dataset: Any,
        output_dir: str | Path,
        *,
        settings: ShardSettings | None = None,
        processing_class: Any | None = None,
        held_out: Any | None = None,
        key: bytes | None = None,
        sources: Sequence[str] = (),
    ) -> ShardedClassifier:
        """Train all shards, and return the model.

        Args:
            model: the public base, a folder or a Hub id, which `@revision` may follow. It is pinned to a commit.
            train_dataset: labeled rows, a `datasets.Dataset`.
            output_dir: a new folder for the model. A run that was killed there goes on.
            settings: how shards are trained. Default None: `ShardSettings()`.
            processing_class: tokenizer or image processor. Default None: the base's.
            held_out: labeled rows, none of them in `train_dataset`, that the weight of each shard is fitted on. Default None: all
                shards have the same weight.
            key: 32 private bytes that decide which row goes where. Default None: drawn at random, and kept in the folder.
            sources: what the rows were loaded from, for the command line. Default: nothing is noted.

        Raises:
            ValueError: the base or the rows do not fit, there are fewer groups than shards, or `output_dir` is there already.
        """
        settings = settings or ShardSettings()
        if not isinstance(train_dataset, datasets.Dataset):
            kind = type(train_dataset).__name__
            raise ValueError(f"`dataset` must be a `datasets.Dataset`, got {kind}: its rows are picked by number.")
        sharding, processing_class = sharding_of(model, train_dataset, settings, processing_class, self.use_cpu)
        rows = prepared_rows(sharding, train_dataset, processing_class)
        _check_groups(rows, settings)
        check_held_out(sharding, held_out, rows, processing_class)
        shard_model(sharding, 0)  # raises if the base or the adapter does not serve, before anything is written
        with new_version(Path(output_dir), key) as folder:
            key = key_of(folder)
            found = assign(rows, key, settings.num_shards, settings.slices, settings.group_column)
            self.tell(balance(found.sizes()))
            ledger = Ledger(rows.column_names, found.ids, settings.group_column, sources=list(sources))
            places = [folder / PRIVATE_FOLDER / CHECKPOINTS]
            work = [plan_shard(sharding, i, part, key, places) for i, part in enumerate(found.ids)]
            save_processing(folder, sharding, processing_class)
            self._make(folder, sharding, ledger, work, found, rows, places, held_out)
        return ShardedClassifier.from_pretrained(Path(output_dir))

    def plan_to_forget(
        self, model: str | Path, train_dataset: Any, request: ForgetRequest | None, *, missing: bool = False
    ) -> Plan:
        """Return what deleting the rows of a request would cost. Nothing is trained; arguments and errors are those of `forget`."""
        version = Version.load(model)
        rows, found = version.find_rows(train_dataset)
        return plan_deletion(version, rows, found, request, missing)

    def forget(
        self,
        model: str | Path,
        train_dataset: Any,
        request: ForgetRequest | None,
        output_dir: str | Path,
        *,
        missing: bool = False,
        held_out: Any | None = None,
        request_id: str | None = None,
    ) -> ShardedClassifier:
        """Make a version without the rows of a request, with a receipt, and return it.

        Args:
            model: the folder of the version to start from. It is not changed.
            train_dataset: the rows that this version was trained on. Rows that earlier requests deleted may still be there.
            request: names the rows. None: only those that are `missing`.
            output_dir: a new folder. A run that was killed there goes on.
            missing: True to delete the rows too that `train_dataset` no longer holds. Default False: they are an error.
            held_out: as in `train`; needed if the version's weights were fitted.
            request_id: an id that identifies no person, for the receipt. Default None: a random one.

        Raises:
            ValueError: the request selects no row that the model was trained on, the rows are not those of the training, the libraries
                have other versions, or `output_dir` is there already.
        """
        started = datetime.now(UTC)
        version = Version.load(model)
        _check_versions(version.sharding, self.use_cpu)
        rows, found = version.find_rows(train_dataset)
        plan = plan_deletion(version, rows, found, request, missing)
        self.tell(plan.sentence())
        ledger = self._next_ledger(version, plan.ids)
        ledger.deleted = sorted({*ledger.deleted, *plan.rows})
        target = Path(output_dir)
        with new_version(target, version.key) as folder:
            sharding = self._make_next(version, folder, plan, ledger, found, rows, held_out)
            gone = [found.places[name] for name in plan.rows if name in found.places]
            steps = {"trained": plan.steps, "all": plan.all_steps}
            deleted = rows.select(sorted(gone))
            write_exact_receipt(folder, version, sharding, deleted, request, request_id, started, steps)
        return ShardedClassifier.from_pretrained(target)

    def add(
        self,
        model: str | Path,
        train_dataset: Any,
        new_rows: Any,
        output_dir: str | Path,
        *,
        held_out: Any | None = None,
        source: str = "",
    ) -> ShardedClassifier:
        """Make a version that is also trained on `new_rows`, and return it. No other row moves.

        Args:
            model: the folder of the version to start from. It is not changed.
            train_dataset: the rows that this version was trained on.
            new_rows: more labeled rows with the same columns.
            output_dir: a new folder. A run that was killed there goes on.
            held_out: as in `train`; needed if the version's weights were fitted.
            source: what `new_rows` were loaded from, for the command line. Default: nothing is noted.

        Raises:
            ValueError: as in `forget`, or a new row was deleted before.
        """
        version = Version.load(model)
        _check_versions(version.sharding, self.use_cpu)
        known = version.find_rows(train_dataset)[0]
        more = new_rows.select_columns(sorted(set(new_rows.column_names) & set(version.ledger.columns)))
        try:
            together = datasets.concatenate_datasets([known, more.cast(known.features)])
        except (ValueError, TypeError) as error:
            raise ValueError(f"`new_rows` have other columns than the rows of the training: {error}") from error
        rows, found = version.find_rows(together)
        missing, extra = differences(version, found)
        if missing:
            raise ValueError(missing_rows(missing))
        prepared_rows(version.sharding, rows, load_processing_class(str(version.folder)))
        deleted = set(version.ledger.deleted)
        again = [name for name, place in found.places.items() if place >= len(known) and name in deleted]
        if again:
            raise ValueError(
                f"`new_rows` hold {len(again):,} rows that an earlier request deleted. Take them out: what was deleted is not learned again."
            )
        if set(row_ids(together.select(range(len(known), len(together))), version.key)) <= version.ledger.known:
            raise ValueError("`new_rows` hold no row that the shards do not know already.")
        ids: Ids = [[[n for n in part if n not in deleted] for part in shard] for shard in found.ids]
        plan = plan_version(version, ids, extra)
        self.tell(plan.sentence())
        ledger = self._next_ledger(version, ids)
        ledger.sources += [source] if source else []
        with new_version(Path(output_dir), version.key) as folder:
            self._make_next(version, folder, plan, ledger, found, rows, held_out)
        return ShardedClassifier.from_pretrained(Path(output_dir))

    def retrained_weights(self, model: str | Path, train_dataset: Any, number: int, scratch: str | Path) -> str:
        """Train a shard from the start, without any checkpoint, in the folder `scratch`. Returns the SHA-256 of its weights.

        It is the SHA-256 in `sharding.json` if the version is what it says.
        """
        version = Version.load(model)
        _check_versions(version.sharding, self.use_cpu)
        rows, found = version.find_rows(train_dataset)
        folder = Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        work = plan_shard(version.sharding, number, version.ledger.ids[number], version.key, [])
        places = _places(version.ledger.ids[number], found)
        job = ShardJob(version.sharding, work, rows.select(places), version.folder, [folder], folder, self.use_cpu)
        job.run()
        return weights_of_shard(folder, number)

    def _next_ledger(self, version: Version, ids: Ids) -> Ledger:
        former = version.ledger
        ancestors = [*former.ancestors, str(version.folder.resolve())]
        return replace(former, ids=ids, ancestors=ancestors, sources=list(former.sources))

    def _make_next(
        self,
        version: Version,
        folder: Path,
        plan: Plan,
        ledger: Ledger,
        found: Assignment,
        rows: Any,
        held_out: Any | None,
    ) -> Sharding:
        """Copy what stays, and train what changes."""
        changed = {work.number for work in plan.work}
        for number in set(version.sharding.present) - changed:
            _copy_shard(version, number, folder)
        places = [folder / PRIVATE_FOLDER / CHECKPOINTS, version.checkpoints]
        every = [plan_shard(version.sharding, i, part, version.key, places) for i, part in enumerate(plan.ids)]
        for work in every:
            for stage, name in enumerate(work.keys[: work.start]):
                kept = find_checkpoint(work.number, stage, name, places)
                if kept is not None:
                    copy_file(kept, places[0] / CHECKPOINT.format(work.number, stage, name))
        for file in version.folder.iterdir():
            if file.is_file() and file.name not in (SHARDING, RECEIPT, signature_file(Path(RECEIPT)).name):
                (folder / file.name).write_bytes(file.read_bytes())
        DeletionQueue(version.folder).carry_over(folder, [])
        sharding = replace(version.sharding, previous=file_digest(version.folder / SHARDING))
        return self._make(
            folder, sharding, ledger, [w for w in every if w.number in changed], found, rows, places, held_out
        )

    def _make(
        self,
        folder: Path,
        sharding: Sharding,
        ledger: Ledger,
        work: Sequence[ShardWork],
        found: Assignment,
        rows: Any,
        places: Sequence[Path],
        held_out: Any | None,
    ) -> Sharding:
        """Train the shards in `work`, and write what describes the version, its public part last."""
        jobs = [
            ShardJob(
                sharding,
                w,
                rows.select(_places(ledger.ids[w.number], found)),
                folder,
                list(places),
                folder,
                self.use_cpu,
            )
            for w in work
            if sum(w.slices)
        ]
        run_jobs(jobs, self.num_processes, self.tell)
        for place in folder.glob("shard-*"):  # of a run that was killed and had more shards
            if place.name not in {SHARD.format(i) for i, part in enumerate(ledger.ids) if any(part)}:
                shutil.rmtree(place)
        trained = {w.number for w in work}
        steps, seconds = sum(j.work.steps_left for j in jobs), sum(j.work.seconds for j in jobs)
        if steps and seconds:
            ledger.seconds_per_step = seconds / steps
        sizes = [sum(map(len, part)) for part in ledger.ids]
        shards = [
            {"rows": size, "weights": weights_of_shard(folder, i) if size else None, "trained": i in trained}
            for i, size in enumerate(sizes)
        ]
        present = sum(size > 0 for size in sizes)
        if not present:
            raise ValueError("No row is left in any shard.")
        weights = [1 / present if size else 0.0 for size in sizes]
        sharding = replace(sharding, shards=shards, weights=weights)
        sharding = fit_weights(sharding, folder, held_out)
        write_ledger(folder, ledger)
        sharding.save(folder)
        return sharding


def _copy_shard(version: Version, number: int, folder: Path) -> None:
    """Copy a shard that does not change, in the place of what a killed run for another request may have left there.

    Raises:
        ValueError: its weights are not those that the version says.
    """
    target, said = folder / SHARD.format(number), version.sharding.shards[number]["weights"]
    if target.exists() and weights_of_shard(folder, number) != said:
        shutil.rmtree(target)
    copy_whole(version.folder / SHARD.format(number), target)
    if weights_of_shard(folder, number) != said:
        raise ValueError(
            f"{version.folder / SHARD.format(number)} has other weights than {SHARDING} says, so it is damaged. Restore it from a backup."
        )


def _places(ids: Sequence[Sequence[str]], found: Assignment) -> list[int]:
    return [found.places[name] for name in itertools.chain.from_iterable(ids)]


def _check_groups(rows: Any, settings: ShardSettings) -> None:
    """Raise ValueError if there are fewer groups than shards. With more, a shard may still have none by chance, and has no say."""
    column = settings.group_column
    groups = len(rows) if column is None else len(set(group_digests(rows, column)))
    if groups < settings.num_shards:
        raise ValueError(
            f"`num_shards={settings.num_shards}`: there are only {groups:,} {'rows' if column is None else 'groups'}, and each is in one shard. "
            "Take fewer shards."
        )


def _check_versions(sharding: Sharding, use_cpu: bool) -> None:
    """Raise ValueError if the shards were trained with other versions of the libraries, or on another device: bits may differ then."""
    now = versions(use_cpu)
    other = [f"{name} {was} (here {now.get(name)})" for name, was in sharding.versions.items() if now.get(name) != was]
    if other:
        raise ValueError(
            f"The shards were trained with {', '.join(other)}, and another version or device may give other bits: a deletion would not "
            "be exact. Use these, or train all shards anew."
        )

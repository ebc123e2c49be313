"""`ShardedTrainer`: train adapters on shards of the rows, delete rows from them exactly, and add rows."""

import itertools
import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from ..data.forget_request import ForgetRequest
from ..hub.layout import RECEIPT
from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..models.classifier_class import is_image_dataset
from ..models.pretrained import load_processing_class
from ..models.processor import Processor
from ..models.sharded_classifier import SHARD, SHARDING, ShardedClassifier, Sharding, fresh_classifier
from ..training.row_checks import check_every_row
from ..utils.files import file_digest
from .assignment import Assignment, Ids, assign, balance, row_ids
from .receipt import write_exact_receipt
from .settings import ShardSettings, sharding_of
from .shard_training import CHECKPOINT, ShardWork, find_checkpoint, plan_shard, train_shard, versions, weights_of_shard
from .shard_weights import fit_weights
from .version import CHECKPOINTS, Ledger, Version, copy_file, copy_whole, key_of, new_version, write_ledger

logger = logging.getLogger(__name__)
Tell = Callable[[str], object]


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
        sharding, processing_class = sharding_of(model, train_dataset, settings, processing_class)
        rows = _prepared(sharding, train_dataset, processing_class)
        with new_version(Path(output_dir), key) as folder:
            key = key_of(folder)
            found = assign(rows, key, settings.num_shards, settings.slices, settings.group_column)
            _check_groups(found, settings)
            self.tell(balance(found.sizes()))
            ledger = Ledger(rows.column_names, found.ids, settings.group_column, sources=list(sources))
            places = [folder / PRIVATE_FOLDER / CHECKPOINTS]
            work = [plan_shard(sharding, i, part, key, places) for i, part in enumerate(found.ids)]
            _save_processing(folder, sharding, processing_class)
            self._make(folder, sharding, ledger, work, found, rows, places, held_out)
        return ShardedClassifier.from_pretrained(Path(output_dir))

    def plan(self, version: Version, found: Assignment, ids: Ids, changed: Sequence[str]) -> Plan:
        """Return what it takes to have a version with the rows `ids` in place of those of `version`."""
        places, sharding = [version.checkpoints], version.sharding
        every = [plan_shard(sharding, i, part, version.key, places) for i, part in enumerate(ids)]
        work = [w for w, part, former in zip(every, ids, version.ledger.ids, strict=True) if part != former]
        pace = version.ledger.seconds_per_step
        steps, all_steps = sum(w.steps_left for w in work), sum(sum(w.steps) for w in every)
        return Plan(ids, work, list(changed), all_steps, None if pace is None else steps * pace)

    def plan_to_forget(
        self, model: str | Path, train_dataset: Any, request: ForgetRequest | None, *, missing: bool = False
    ) -> Plan:
        """Return what deleting the rows of a request would cost. Nothing is trained; arguments and errors are those of `forget`."""
        version = Version.load(model)
        rows, found = version.find_rows(train_dataset)
        return self._plan_to_forget(version, rows, found, request, missing)

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
        _check_versions(version.sharding)
        rows, found = version.find_rows(train_dataset)
        plan = self._plan_to_forget(version, rows, found, request, missing)
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
        _check_versions(version.sharding)
        known = version.find_rows(train_dataset)[0]
        more = new_rows.select_columns(sorted(set(new_rows.column_names) & set(version.ledger.columns)))
        try:
            together = datasets.concatenate_datasets([known, more.cast(known.features)])
        except (ValueError, TypeError) as error:
            raise ValueError(f"`new_rows` have other columns than the rows of the training: {error}") from error
        rows, found = version.find_rows(together)
        missing, extra = _differences(version, found)
        if missing:
            raise ValueError(_missing_rows(missing))
        _prepared(version.sharding, rows, load_processing_class(str(version.folder)))
        deleted = set(version.ledger.deleted)
        again = [name for name, place in found.places.items() if place >= len(known) and name in deleted]
        if again:
            raise ValueError(
                f"`new_rows` hold {len(again):,} rows that an earlier request deleted. Take them out: what was deleted is not learned again."
            )
        if set(row_ids(together.select(range(len(known), len(together))), version.key)) <= version.ledger.known:
            raise ValueError("`new_rows` hold no row that the shards do not know already.")
        ids: Ids = [[[n for n in part if n not in deleted] for part in shard] for shard in found.ids]
        plan = self.plan(version, found, ids, extra)
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
        _check_versions(version.sharding)
        rows, found = version.find_rows(train_dataset)
        folder = Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        work = plan_shard(version.sharding, number, version.ledger.ids[number], version.key, [])
        places = _places(version.ledger.ids[number], found)
        job = _Job(version.sharding, work, rows.select(places), version.folder, [folder], folder, self.use_cpu)
        job.run()
        return weights_of_shard(folder, number)

    def _plan_to_forget(
        self, version: Version, rows: Any, found: Assignment, request: ForgetRequest | None, missing: bool
    ) -> Plan:
        lost, extra = _differences(version, found)
        if extra:
            raise ValueError(
                f"`dataset` holds {len(extra):,} rows that the shards were not trained on. Train on them first, with `hf-unlearn shards add`, "
                "or give the data set of the training."
            )
        if lost and not missing:
            raise ValueError(_missing_rows(lost))
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
        return self.plan(version, found, ids, sorted(gone))

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
            copy_whole(version.folder / SHARD.format(number), folder / SHARD.format(number))
        places = [folder / PRIVATE_FOLDER / CHECKPOINTS, version.checkpoints]
        every = [plan_shard(version.sharding, i, part, version.key, places) for i, part in enumerate(plan.ids)]
        for work in every:
            for stage, name in enumerate(work.keys[: work.start]):
                kept = find_checkpoint(work.number, stage, name, places)
                if kept is not None:
                    copy_file(kept, places[0] / CHECKPOINT.format(work.number, stage, name))
        for file in version.folder.iterdir():
            if file.is_file() and file.name not in (SHARDING, RECEIPT):
                (folder / file.name).write_bytes(file.read_bytes())
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
            _Job(
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
        self._run(jobs)
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

    def _run(self, jobs: Sequence["_Job"]) -> None:
        """Train the shards of all jobs, side by side if that was asked for."""
        workers = min(self.num_processes, len(jobs))
        if workers < 2 and torch.cuda.device_count() < 2:
            for number, job in enumerate(jobs, 1):
                job.run()
                self.tell(f"Shard {job.work.number} is trained ({number} of {len(jobs)}).")
            return
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
        ranks = context.Value("i", 0)
        with ProcessPoolExecutor(max(1, workers), context, _take_device, (ranks,)) as pool:
            for number, (job, seconds) in enumerate(zip(jobs, pool.map(_run_job, jobs), strict=True), 1):
                job.work.seconds = seconds
                self.tell(f"Shard {job.work.number} is trained ({number} of {len(jobs)}).")


@dataclass
class _Job:
    """One shard to train, with all that it takes, so that another process can do it."""

    sharding: Sharding
    work: ShardWork
    rows: Any
    processing_folder: Path
    checkpoints: list[Path]
    folder: Path
    use_cpu: bool

    def run(self) -> None:
        processor = _processor(self.sharding, load_processing_class(str(self.processing_folder)))
        rows = processor.align(self.rows, "dataset", quiet=True)
        train_shard(self.sharding, self.work, rows, processor, self.checkpoints, self.folder, self.use_cpu)


def _run_job(job: _Job) -> float:
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    job.run()
    return job.work.seconds


def _take_device(ranks: Any) -> None:
    """Give each process a GPU of its own, as far as there are enough. It runs before the process touches one."""
    with ranks.get_lock():
        rank, ranks.value = ranks.value, ranks.value + 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if devices and devices != [""]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank % len(devices)]


def _processor(sharding: Sharding, processing_class: Any) -> Processor:
    classifier, _ = fresh_classifier(sharding)
    names = ("label_column", "image_column", "text_column")
    return Processor(classifier, processing_class, **{name: sharding.settings[name] for name in names})


def _prepared(sharding: Sharding, given: Any, processing_class: Any) -> Any:
    """Return the rows with their columns in order, once every row can become an input of the model.

    Raises:
        ValueError: a row cannot be read.
    """
    rows = given.with_format(None).select_columns(sorted(given.column_names))
    processor = _processor(sharding, processing_class)
    if processor.text == is_image_dataset(rows) and not processor.inputs_among(rows.column_names):
        kinds = ("texts", "pictures") if processor.text else ("pictures", "texts")
        raise ValueError(f"`model={sharding.base!r}` reads {kinds[0]}, and the rows hold {kinds[1]}.")
    aligned = processor.align(rows, "dataset", quiet=True)
    processor.check(aligned, "dataset")
    check_every_row(processor, aligned, "dataset")
    return rows


def _save_processing(folder: Path, sharding: Sharding, processing_class: Any) -> None:
    """Save the tokenizer or image processor, and the configuration that says which of them it is."""
    processing_class.save_pretrained(folder)
    fresh_classifier(sharding)[0].config.save_pretrained(folder)


def _places(ids: Sequence[Sequence[str]], found: Assignment) -> list[int]:
    return [found.places[name] for name in itertools.chain.from_iterable(ids)]


def _differences(version: Version, found: Assignment) -> tuple[list[str], list[str]]:
    """Return the ids of rows that the data set no longer holds, and of those that the model was not trained on."""
    known, deleted = version.ledger.known, set(version.ledger.deleted)
    return sorted(known - found.places.keys()), sorted(found.places.keys() - known - deleted)


def _missing_rows(missing: Sequence[str]) -> str:
    return (
        f"`dataset` lacks {len(missing):,} rows that the shards were trained on, or they changed. Restore them, or delete what they taught "
        "with `--forget_missing true` (`missing=True`)."
    )


def _check_groups(found: Assignment, settings: ShardSettings) -> None:
    sizes = found.sizes()
    if min(sizes) == 0:
        raise ValueError(
            f"`num_shards={settings.num_shards}`: {sizes.count(0)} shards would have no row, because there are too few "
            f"{'rows' if settings.group_column is None else 'groups'}. Take fewer shards."
        )


def _check_versions(sharding: Sharding) -> None:
    """Raise ValueError if the shards were trained with other versions of the libraries: bits may differ then."""
    now = versions()
    other = [f"{name} {was} (here {now.get(name)})" for name, was in sharding.versions.items() if now.get(name) != was]
    if other:
        raise ValueError(
            f"The shards were trained with {', '.join(other)}, and another version may give other bits: a deletion would not be exact. "
            "Install these versions, or train all shards anew."
        )

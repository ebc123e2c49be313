"""`hf-unlearn shards train | forget | add | queue | check | versions`: deletion that is exact by design, at the cost of one shard."""

# ruff: noqa: RUF009  `setting` makes a dataclass field, no default that the objects share
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
import transformers

from ..data.forget_request import ForgetRequest
from ..data.loading import load_rows
from ..methods.base import setting
from ..models.sharded_classifier import SHARD, SHARDING, Sharding
from ..shards.deletion_queue import ARGUMENTS, DeletionQueue
from ..shards.receipt import untouched_problems
from ..shards.settings import ShardSettings
from ..shards.trainer import ShardedTrainer
from ..shards.version import Version
from ..utils.argument_checks import renamed
from ..utils.files import file_digest
from .option_parser import OptionParser
from .parsers import parser_settings

REQUEST = {argument: option for option, argument in ARGUMENTS.items()}
MODEL = "Folder of the sharded model, with its private part. It is not changed."
DATASET = "Rows that the shards were trained on: a file, or a folder or Hub id, which `:split` may follow. None: those of the training."
HELD_OUT = (
    "Labeled rows that no shard is trained on. With them the weight of each shard is fitted. None: equal weights."
)


@dataclass(kw_only=True)
class Running:
    """How shards are trained on this machine."""

    num_processes: int = setting(
        os.cpu_count() or 1, "Processes that train shards side by side. The result is the same."
    )
    use_cpu: bool = setting(False, "Train on the CPU though there is a GPU.")

    def trainer(self) -> ShardedTrainer:
        return ShardedTrainer(
            num_processes=self.num_processes, use_cpu=self.use_cpu, tell=lambda said: print(said, flush=True)
        )


@dataclass(kw_only=True)
class Training:
    """What a model is trained from, and where it goes."""

    model: str = field(metadata={"help": "Public base, as a Hub id (`org/name@revision`) or a folder."})
    dataset: str = field(
        metadata={"help": "Rows to train on: a file, or a folder or Hub id, which `:split` may follow."}
    )
    output_dir: str = field(metadata={"help": "New folder for the model. A run that was killed there goes on."})
    held_out: str | None = setting(None, HELD_OUT)


@dataclass(kw_only=True)
class TrainArguments(Running, ShardSettings, Training):
    """Options of `hf-unlearn shards train`."""

    def settings(self) -> ShardSettings:
        return ShardSettings(**{f.name: getattr(self, f.name) for f in fields(ShardSettings)})


@dataclass(kw_only=True)
class Requesting:
    """What names the rows of a request."""

    forget_class: list[str] | None = setting(None, "Classes to forget, by name or id. A class is in every shard.")
    forget_column: str | None = setting(None, "Column that selects the rows to forget, such as a user id.")
    forget_values: list[str] | None = setting(None, "Forget the rows with these values in `forget_column`.")
    forget_ids_file: str | None = setting(None, "File with a value of `forget_column`, or a row number, on each line.")

    def request(self, label_column: str = "label") -> ForgetRequest | None:
        """Return the request, or None if nothing names rows."""
        given = {argument: getattr(self, name) for argument, name in REQUEST.items()}
        if all(value is None for value in given.values()):
            return None
        with renamed(REQUEST):
            return ForgetRequest(**given, label_column=label_column)


@dataclass(kw_only=True)
class ForgetArguments(Running, Requesting):
    """Options of `hf-unlearn shards forget`."""

    model: str = field(metadata={"help": MODEL})
    output_dir: str | None = setting(
        None, "New folder for the model without the rows. It may be left out with `dry_run`."
    )
    dataset: str | None = setting(None, DATASET)
    forget_missing: bool = setting(False, "Forget the rows too that the data set no longer holds.")
    queued: bool = setting(False, "Forget all rows in the queue of `hf-unlearn shards queue`.")
    due: str | None = setting(None, "Of the queue, only requests with a deadline up to this day, such as 2030-01-31.")
    dry_run: bool = setting(False, "Say which shards and how many steps it takes, and train nothing.")
    held_out: str | None = setting(None, HELD_OUT)
    request_id: str | None = setting(
        None, "Id for the receipt, which is published. It must identify no person. None: a random one."
    )


@dataclass(kw_only=True)
class AddArguments(Running):
    """Options of `hf-unlearn shards add`."""

    model: str = field(metadata={"help": MODEL})
    dataset: str = field(metadata={"help": "New rows, with the columns of the training."})
    output_dir: str = field(metadata={"help": "New folder for the model with the rows."})
    known: str | None = setting(None, DATASET)
    held_out: str | None = setting(None, HELD_OUT)


@dataclass(kw_only=True)
class QueueArguments(Requesting):
    """Options of `hf-unlearn shards queue`."""

    model: str = field(metadata={"help": MODEL})
    deadline: str | None = setting(None, "Day by which the rows must be gone, such as 2030-01-31.")


@dataclass(kw_only=True)
class CheckArguments:
    """Options of `hf-unlearn shards check`."""

    model: str = field(metadata={"help": "Folder of a sharded model."})
    previous: str | None = setting(
        None, "Folder of the version before it: check that the shards that the receipt calls unchanged are."
    )
    shards: list[int] | None = setting(
        None, "Numbers of shards to train from the start: their weights must come out bit for bit."
    )
    dataset: str | None = setting(None, DATASET)
    use_cpu: bool = setting(False, "Train on the CPU though there is a GPU.")


@dataclass(kw_only=True)
class VersionsArguments:
    """Options of `hf-unlearn shards versions`."""

    model: str = field(metadata={"help": "Folder of the present version."})
    purge: bool = setting(False, "Delete the folders of all earlier versions, with their checkpoints and keys.")


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn shards`. Returns 0, or 1 if a check finds a difference."""
    if not words or words[0] not in COMMANDS:
        asked = bool(words) and words[0] in ("-h", "--help")
        if not asked:
            raise SystemExit(
                f"`hf-unlearn shards` needs one of: {', '.join(COMMANDS)}. `hf-unlearn shards --help` explains them."
            )
        print(USAGE)
        return 0
    command = COMMANDS[words[0]]
    settings = parser_settings(f"shards {words[0]}", command.about, *command.examples)
    (given,) = OptionParser(command.arguments, {"peft_config": False}, **settings).read(words[1:])
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    return command.work(given)


def _train(given: TrainArguments) -> int:
    rows = load_rows(given.dataset, "dataset", "train")
    given.trainer().train(
        given.model,
        rows,
        given.output_dir,
        settings=given.settings(),
        held_out=_held_out(given.held_out),
        sources=[_whole(given.dataset)],
    )
    print(f"Model in {given.output_dir}. Keep {given.output_dir}/_private: without it no row can be deleted.")
    return 0


def _forget(given: ForgetArguments) -> int:
    version = Version.load(given.model)
    rows = _rows(given.dataset, version)
    request, queue = given.request(version.sharding.settings["label_column"]), DeletionQueue(version.folder)
    if given.due and not given.queued:
        raise ValueError("`due` chooses among the requests of the queue: give `--queued true` too.")
    waiting = queue.waiting(given.due) if given.queued else []
    for one in waiting:
        asked = one.request(version.sharding.settings["label_column"])
        request = asked if request is None else request | asked
    if request is None and not given.forget_missing:
        empty = "The queue is empty" if given.queued else "Nothing is named to forget"
        raise ValueError(
            f"{empty}. Give `--forget_column` with `--forget_values`, `--forget_class`, or `--forget_missing true`."
        )
    trainer = given.trainer()
    with renamed(REQUEST):
        if given.dry_run:
            plan = trainer.plan_to_forget(given.model, rows, request, missing=given.forget_missing)
            print(plan.sentence())
            for work in plan.work:
                print(
                    f"  shard {work.number}: from stage {work.start + 1} of {len(work.steps)}, {work.steps_left:,} steps"
                )
            return 0
        if given.output_dir is None:
            raise ValueError("`output_dir` is missing. Name a new folder, or give `--dry_run true`.")
        trainer.forget(
            given.model, rows, request, given.output_dir, missing=given.forget_missing, held_out=_held_out(given.held_out),
            request_id=given.request_id,
        )  # fmt: skip
    if given.queued:
        queue.carry_over(Path(given.output_dir), waiting)
    print(f"Model in {given.output_dir}, with its receipt.")
    print(
        f"{given.model} still holds what the rows taught: delete it, or see `hf-unlearn shards versions --model {given.output_dir}`."
    )
    return 0


def _add(given: AddArguments) -> int:
    version = Version.load(given.model)
    new = load_rows(given.dataset, "dataset", "train")
    given.trainer().add(
        given.model, _rows(given.known, version, "known"), new, given.output_dir, held_out=_held_out(given.held_out),
        source=_whole(given.dataset),
    )  # fmt: skip
    print(f"Model in {given.output_dir}.")
    return 0


def _queue(given: QueueArguments) -> int:
    version = Version.load(given.model)
    queue = DeletionQueue(version.folder)
    if given.request() is not None:
        named = {name: getattr(given, name) for name in REQUEST.values() if getattr(given, name) is not None}
        queue.add(named, given.deadline)
    waiting = queue.waiting()
    print(f"{len(waiting)} requests wait in {given.model}.")
    for one in waiting:
        print(f"  {one.received}  deadline {one.deadline or 'none'}  {one.words()}")
    return 0


def _check(given: CheckArguments) -> int:
    folder = Path(given.model)
    if not (folder / SHARDING).is_file():
        raise ValueError(f"`model={given.model!r}` holds no {SHARDING}.")
    sharding = Sharding.load(folder / SHARDING)
    problems = []
    for number in sharding.present:
        weights = folder / SHARD.format(number) / "adapter_model.safetensors"
        if not weights.is_file() or file_digest(weights) != sharding.shards[number]["weights"]:
            problems.append(f"{SHARD.format(number)}: its weights are not those of {SHARDING}")
    if given.previous is not None:
        problems += untouched_problems(folder, given.previous)
    if given.shards:
        version = Version.load(folder)
        rows, trainer = _rows(given.dataset, version), ShardedTrainer(use_cpu=given.use_cpu)
        for number in given.shards:
            if number not in sharding.present:
                raise ValueError(
                    f"`shards`: {number} has no rows here. There are {', '.join(map(str, sharding.present))}."
                )
            with tempfile.TemporaryDirectory() as scratch:
                found = trainer.retrained_weights(folder, rows, number, scratch)
            same = found == sharding.shards[number]["weights"]
            print(
                f"{SHARD.format(number)}: trained from the start, {'the same bits' if same else 'other bits'}",
                flush=True,
            )
            problems += [] if same else [f"{SHARD.format(number)}: trained from the start it has other weights"]
    for problem in problems:
        print(f"MISMATCH {problem}")
    print("All is as it says." if not problems else f"{len(problems)} mismatches.")
    return int(bool(problems))


def _versions(given: VersionsArguments) -> int:
    version = Version.load(given.model)
    earlier = [Path(name) for name in version.ledger.ancestors if Path(name).is_dir()]
    earlier = [folder for folder in earlier if folder.resolve() != version.folder.resolve()]
    if not earlier:
        print("No earlier version is on this machine.")
    for folder in earlier:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{'deleted' if given.purge else 'is there'}: {folder} ({size / 1e6:,.1f} MB)")
        if given.purge:
            shutil.rmtree(folder)
    if earlier and not given.purge:
        print("They hold what deleted rows taught. `--purge true` deletes them.")
    print("Copies elsewhere, what was published, and logs of the trainings are not known here.")
    return 0


def _rows(given: str | None, version: Version, argument: str = "dataset") -> Any:
    """Return the rows that the user names, or those that the version was trained on."""
    sources = version.ledger.sources if given is None else [given]
    if not sources:
        raise ValueError(
            f"`{argument}` is missing, and the model was trained in Python, so it is not known here. Name its rows."
        )
    parts = [load_rows(source, argument, "train") for source in sources]
    columns = version.ledger.columns
    parts = [part.select_columns([c for c in columns if c in part.column_names]) for part in parts]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets([p.cast(parts[0].features) for p in parts])


def _held_out(given: str | None) -> Any:
    return None if given is None else load_rows(given, "held_out", "validation")


def _whole(source: str) -> str:
    """Return a folder or file by its whole path, so that a later command finds it from elsewhere."""
    name, colon, split = source.partition(":")
    for whole, rest in ((source, ""), (name, colon + split)):
        if os.path.exists(os.path.expanduser(whole)):
            return os.path.abspath(os.path.expanduser(whole)) + rest
    return source


@dataclass(frozen=True)
class Command:
    """A command: what it runs, its options, what it is for, and words to try."""

    work: Callable[[Any], int]
    arguments: Any
    about: str
    examples: tuple[str, ...]


COMMANDS = {
    "train": Command(
        _train,
        TrainArguments,
        "Train adapters on shards of the rows, over a frozen public base, so that a later deletion costs one shard.",
        (
            "--model sentence-transformers/all-MiniLM-L6-v2 --dataset my-org/reviews --group_column user_id --output_dir sharded",
        ),
    ),
    "forget": Command(
        _forget,
        ForgetArguments,
        "Make a version of the model that never saw some rows, bit for bit.",
        (
            "--model sharded --forget_column user_id --forget_values u123 --output_dir sharded-2",
            "--model sharded --queued true --output_dir sharded-2 --dry_run true",
        ),
    ),
    "add": Command(
        _add,
        AddArguments,
        "Make a version of the model that was also trained on new rows.",
        ("--model sharded --dataset new.csv --output_dir sharded-3",),
    ),
    "queue": Command(
        _queue,
        QueueArguments,
        "Put a deletion request into the queue, or list those that wait.",
        ("--model sharded --forget_column user_id --forget_values u123 --deadline 2030-01-31", "--model sharded"),
    ),
    "check": Command(
        _check,
        CheckArguments,
        "Check that shards are what they say: unchanged, or what training from the start gives. Exits with 1 if not.",
        ("--model sharded-2 --previous sharded", "--model sharded-2 --shards 3 5"),
    ),
    "versions": Command(
        _versions,
        VersionsArguments,
        "List the earlier versions on this machine, which hold what deleted rows taught, or delete them.",
        ("--model sharded-2 --purge true",),
    ),
}
USAGE = "\n".join(
    [
        "usage: hf-unlearn shards {" + ",".join(COMMANDS) + "} ...",
        "",
        *(f"  hf-unlearn shards {name:9s} {command.about}" for name, command in COMMANDS.items()),
        "",
        "`hf-unlearn shards COMMAND --help` explains every option.",
        "",
        "examples:",
        *(f"  hf-unlearn shards {name} {command.examples[0]}" for name, command in COMMANDS.items()),
    ]
)

"""A version of a sharded classifier in a folder: what may be published, and what stays with the owner.

    sharding.json, config.json, tokenizer or image processor     what the model is; `models/sharded_classifier.py`
    shard-00/, shard-01/, …                                      a PEFT adapter each, with its head
    unlearning_receipt.json                                      of the request that this version answers
    _private/                                                    key, which rows are where, checkpoints: never published

A version is made in a hidden folder beside its place and appears there whole. A killed run leaves that folder, and the next one
goes on in it. The version that it came from stays as it is.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..hub.receipt.forgotten_rows import PRIVATE_FOLDER
from ..models.sharded_classifier import SHARDING, Sharding
from ..utils.files import read_object, write_atomically
from .assignment import Assignment, Ids, assign

KEY, LEDGER, CHECKPOINTS = "key", "rows.json", "checkpoints"
KEY_BYTES = 32


@dataclass
class Ledger:
    """Which rows a version was trained on, by keyed digests. It is private.

    Attributes:
        columns: of the data set, sorted.
        ids: for each shard and slice the ids of its rows, in order.
        group_column: column whose values are kept together; None: each row by itself.
        deleted: ids of the rows that requests have deleted, sorted. They stay deleted while the data set still holds them.
        sources: what the rows were loaded from, by the command line.
        ancestors: folders of the earlier versions, the oldest first.
        seconds_per_step: of the last training.
    """

    columns: list[str]
    ids: Ids
    group_column: str | None = None
    deleted: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    ancestors: list[str] = field(default_factory=list)
    seconds_per_step: float | None = None

    @property
    def known(self) -> set[str]:
        """The ids of all rows that the model was trained on."""
        return {name for shard in self.ids for part in shard for name in part}


@dataclass(frozen=True)
class Version:
    """A version that is whole.

    Attributes:
        folder: where it lies.
        sharding: its public description.
        ledger: its rows.
        key: the private key of all its versions, 32 bytes.
    """

    folder: Path
    sharding: Sharding
    ledger: Ledger
    key: bytes = field(repr=False)

    @classmethod
    def load(cls, folder: str | Path, argument: str = "model") -> "Version":
        """Read a version with its private part.

        Raises:
            ValueError: the folder holds no sharded model, or its private part is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / SHARDING).is_file():
            raise ValueError(
                f"`{argument}={str(folder)!r}` holds no {SHARDING}. Make a model with `hf-unlearn shards train`."
            )
        private = folder / PRIVATE_FOLDER
        found = read_object(private / LEDGER)
        if found is None or not (private / KEY).is_file():
            raise ValueError(
                f"`{argument}={str(folder)!r}` lacks {PRIVATE_FOLDER}/{LEDGER} or {PRIVATE_FOLDER}/{KEY}, without which no row can be found. "
                "They stay with who trained the model: use that folder, and no published copy."
            )
        try:
            ledger = Ledger(**found)
        except TypeError as error:
            raise ValueError(f"{private / LEDGER} is damaged: {error}. Restore it from a backup.") from error
        return cls(folder, Sharding.load(folder / SHARDING), ledger, (private / KEY).read_bytes())

    @property
    def checkpoints(self) -> Path:
        return self.folder / PRIVATE_FOLDER / CHECKPOINTS

    def find_rows(self, rows: Any) -> tuple[Any, Assignment]:
        """Return the rows with the columns of the training alone, and where they go.

        Raises:
            ValueError: a column of the training is missing.
        """
        ledger = self.ledger
        if lacking := sorted(set(ledger.columns) - set(rows.column_names)):
            raise ValueError(
                f"`dataset` lacks the column {lacking[0]!r}, which it had when the shards were trained. Give the same data set."
            )
        rows = rows.select_columns(ledger.columns)
        sharding = self.sharding
        return rows, assign(rows, self.key, len(sharding.shards), sharding.slices, ledger.group_column)


@contextmanager
def new_version(target: Path, key: bytes | None, argument: str = "output_dir") -> Iterator[Path]:
    """Give the folder in which a version is made, with its private part. At the end it appears as `target`.

    After an error or a kill it stays, and the next run goes on in it.

    Args:
        target: where the version will be.
        key: the key of the version before it. None: a new one is drawn, or that of a run that was killed is taken.

    Raises:
        ValueError: there is something at `target`, or a killed run there had another key.
    """
    if os.path.lexists(target):
        raise ValueError(
            f"`{argument}={str(target)!r}` is there already. Name a new folder: no version is ever changed."
        )
    partial = target.with_name(f".{target.name}.partial")
    private = partial / PRIVATE_FOLDER
    (private / CHECKPOINTS).mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(private, 0o700)
    file = private / KEY
    if not file.exists():
        write_atomically(file, key or secrets.token_bytes(KEY_BYTES), mode=0o600)
    elif key is not None and file.read_bytes() != key:
        raise ValueError(f"{partial} was left by a run of another model. Delete it, or name another `{argument}`.")
    yield partial
    os.replace(partial, target)


def key_of(folder: Path) -> bytes:
    """Return the private key of a version that is being made."""
    return (folder / PRIVATE_FOLDER / KEY).read_bytes()


def write_ledger(folder: Path, ledger: Ledger) -> None:
    write_atomically(folder / PRIVATE_FOLDER / LEDGER, json.dumps(asdict(ledger)) + "\n", mode=0o600)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, so that `target` appears whole or not at all."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.copy")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    os.replace(partial, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a private file, so that `target` appears whole or not at all."""
    if not target.exists():
        write_atomically(target, source.read_bytes(), mode=0o600)

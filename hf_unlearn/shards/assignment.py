"""Which shard and slice a row goes to: a keyed hash of its group, so that it depends on nothing but the row itself.

With a private random key K, H = HMAC-SHA256, and g the canonical form of the row's group, such as a user's id,

    shard = H(K, "shard" ‖ g) mod shards,    slice = H(K, "slice" ‖ g) mod slices.

All rows of a group share both. Adding or deleting a row never moves another one, and rows stand in the order of H(K, "order" ‖ row).
"""

import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..hub.receipt.row_digest import row_digest, row_digests

Ids = list[list[list[str]]]  # shard -> slice -> ids of rows, in order


def keyed(key: bytes, purpose: str, *parts: bytes) -> bytes:
    """Return H(key, purpose ‖ parts), 32 bytes."""
    return hmac.digest(key, purpose.encode() + b"\0" + b"".join(parts), "sha256")


def row_ids(rows: Any, key: bytes) -> list[str]:
    """Return an id for each row of a data set, in hex: a keyed digest of its content and of how many equal rows stand before it.

    Nobody without the key can test a guess of a row.
    """
    copies: Counter[bytes] = Counter()
    found = []
    for digest in row_digests(rows):
        found.append(keyed(key, "row", digest, copies[digest].to_bytes(8, "big")).hex())
        copies[digest] += 1
    return found


@dataclass(frozen=True)
class Assignment:
    """Where the rows of a data set go.

    Attributes:
        ids: for each shard and slice the ids of its rows, in the order in which they are trained on.
        places: id -> number of the row in the data set.
    """

    ids: Ids
    places: dict[str, int]

    def sizes(self) -> list[int]:
        """The number of rows of each shard."""
        return [sum(map(len, slices)) for slices in self.ids]

    def rows_of(self, shard: int) -> list[int]:
        """The numbers of the rows of a shard in the data set, slice after slice."""
        return [self.places[name] for part in self.ids[shard] for name in part]


def assign(rows: Any, key: bytes, shards: int, slices: int, group_column: str | None = None) -> Assignment:
    """Assign the rows of a data set.

    Args:
        rows: a `datasets.Dataset`.
        key: 32 private bytes.
        shards, slices: how many there are.
        group_column: column whose values are kept together. Default None: each row is a group of its own.

    Raises:
        ValueError: there is no such column, or a row has no value in it.
    """
    names = row_ids(rows, key)
    groups = [bytes.fromhex(name) for name in names] if group_column is None else group_digests(rows, group_column)
    ids: Ids = [[[] for _ in range(slices)] for _ in range(shards)]
    for name, group in zip(names, groups, strict=True):
        ids[_part(key, "shard", group, shards)][_part(key, "slice", group, slices)].append(name)
    for shard in ids:
        for part in shard:
            part.sort(key=lambda name: keyed(key, "order", bytes.fromhex(name)))
    return Assignment(ids, {name: place for place, name in enumerate(names)})


def _part(key: bytes, purpose: str, group: bytes, parts: int) -> int:
    return int.from_bytes(keyed(key, purpose, group)[:8], "big") % parts


def group_digests(rows: Any, column: str) -> list[bytes]:
    """Return a digest of the value that each row has in `column`.

    Raises:
        ValueError: there is no such column, or a row has no value in it.
    """
    if column not in rows.column_names:
        raise ValueError(f"`group_column={column!r}` is not in the data set: it has {', '.join(rows.column_names)}.")
    values: Sequence[Any] = rows.with_format(None)[column]
    known: dict[Any, bytes] = {}
    found = []
    for number, value in enumerate(values):
        if value is None or value != value or value == "":
            raise ValueError(
                f"`group_column={column!r}`: row {number} has no value, so it cannot be kept with the rows of its group. Fill it in, or "
                "drop the row."
            )
        if not isinstance(value, str | int):
            raise ValueError(
                f"`group_column={column!r}`: row {number} holds a {type(value).__name__}. Name a column of ids, texts or whole numbers."
            )
        if value not in known:
            known[value] = row_digest({"group": value})
        found.append(known[value])
    return found


def balance(sizes: Sequence[int]) -> str:
    """Say how many rows the shards have."""
    empty = sum(size == 0 for size in sizes)
    told = f" {empty} have none, by chance, and no say." if empty else ""
    return f"{sum(sizes):,} rows in {len(sizes)} shards of {min(sizes):,} to {max(sizes):,}.{told}"

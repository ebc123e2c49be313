"""The owner's side of a receipt: keyed digests of the forgotten rows, and proofs that a single row is among them.

With a random key K of 32 bytes, H = HMAC-SHA256, and the digest d of a row (`row_digest.py`), the c-th copy of the row (from 0) has

    row key  k = H(K, "row" ‖ d ‖ c as 8 bytes),    leaf = H(k, d).

The receipt holds the number of leaves and the Merkle root over the leaves in ascending order. Without K nobody can distinguish
the leaves from random bytes. So nobody can test a guess of a row, or a copy of the whole data set, against the root, and the
order of the leaves reveals nothing. A proof for one row shows k, the place of the leaf and its siblings. k is the output of a
pseudo-random function, so it opens this leaf alone. The owner in turn cannot prove a row that is not among the leaves without
a collision of SHA-256.

A proof shows that a row was in the request, not that a model forgot the row: the report measures that. Whoever has the private
file can test guesses.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import Any

from ...utils.files import write_atomically
from .merkle_tree import MerkleTree, root_of_path
from .row_digest import row_digest, row_digests

PRIVATE_FOLDER = "_private"  # `Trainer.push_to_hub` uploads nothing that starts with an underscore.
PRIVATE_FILE = "forgotten_rows.private.json"
PRIVATE_SCHEMA = "hf_unlearn/forgotten_rows/1"
PROOF_SCHEMA = "hf_unlearn/row_proof/1"
SCHEME = "rows/1, HMAC-SHA256, RFC 6962"
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
KEY_BYTES = 32


def _keyed(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


@dataclass(frozen=True)
class ForgottenRows:
    """Key and leaves of one request. Whoever has them can test guesses of rows, so they stay with the owner.

    Attributes:
        request: id of the request.
        columns: names of the rows' columns, sorted. Rows with other columns cannot be in the request.
        leaves: 32 bytes for each row, ascending. Each copy of a row has a leaf of its own.
        key: K, 32 bytes.
    """

    request: str
    columns: list[str]
    leaves: list[bytes]
    key: bytes = field(repr=False)

    @classmethod
    def commit(
        cls, rows: Iterable[Mapping[str, Any]], request: str | None = None, key: bytes | None = None
    ) -> ForgottenRows:
        """Digest `rows`, a `datasets.Dataset` or an iterable of rows.

        Args:
            request: id of the request. It is published, so it must not identify a person. Default None: a random id.
            key: 32 bytes that are never used again. Default None: a random key.

        Raises:
            ValueError: the id holds other characters than letters, digits, `-`, `_` and `.`, or the key has another length.
        """
        request = secrets.token_hex(16) if request is None else request
        if not REQUEST_ID.fullmatch(request):
            raise ValueError("`request` must be an id of up to 64 letters, digits, `-`, `_` and `.`: it is published.")
        key = secrets.token_bytes(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise ValueError(f"`key` must have {KEY_BYTES} bytes, got {len(key)}.")
        columns: list[str] = sorted(getattr(rows, "column_names", None) or [])
        if not columns:
            rows = list(rows)
            columns = sorted({name for row in rows for name in row})
        copies: Counter[bytes] = Counter()
        leaves = []
        for digest in row_digests(rows):
            leaves.append(_keyed(_row_key(key, digest, copies[digest]), digest))
            copies[digest] += 1
        return cls(request, columns, sorted(leaves), key)

    @cached_property
    def tree(self) -> MerkleTree:
        return MerkleTree(self.leaves)

    def set_digest(self, name: str, rows: Any, limit: int) -> str:
        """Return a keyed digest, in hex, of the first `limit` rows of the data set `name`, in order, images as stored.

        Its key, `set_key(name)`, can be shown without K. Whoever has it and knows all rows except a few can guess those.
        """
        total, digested = sha256(), min(limit, len(rows))
        first = rows.select(range(digested)) if hasattr(rows, "select") else islice(rows, digested)
        for digest in row_digests(first, pixels=False):
            total.update(digest)
        return _keyed(self.set_key(name), total.digest()).hex()

    def set_key(self, name: str) -> bytes:
        """Return the key of the digest of the data set `name`: H(K, "set" ‖ name)."""
        return _keyed(self.key, b"set", name.encode())

    def contains(self, row: Mapping[str, Any] | bytes, copy: int = 0) -> bool:
        """Check whether the request holds `row` (or the row of this digest) at least `copy` + 1 times. Default 0: once."""
        return self.prove(row, copy) is not None

    def prove(self, row: Mapping[str, Any] | bytes, copy: int = 0) -> dict[str, Any] | None:
        """Return a proof for `verify_inclusion` that `row` is in the request, ready for JSON, or None if it is not.

        Args:
            row: the row, or its digest.
            copy: number of the copy, from 0, because each of several equal rows has a proof of its own. Default 0.
        """
        digest = row if isinstance(row, bytes) else row_digest(row)
        key = _row_key(self.key, digest, copy)
        leaf = _keyed(key, digest)
        index = bisect_left(self.leaves, leaf)
        if self.leaves[index : index + 1] != [leaf]:
            return None
        path = [sibling.hex() for sibling in self.tree.path(index)]
        return {"schema": PROOF_SCHEMA, "request": self.request, "row_key": key.hex(), "index": index, "path": path}

    def save(self, path: str | Path) -> None:
        """Write the private file, readable by its owner alone. A file of another key is renamed: proofs still need that key."""
        path = Path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            former = self.load(path)
            if former != self:
                os.replace(path, former._new_name(path.parent))
        content = {
            "schema": PRIVATE_SCHEMA,
            "request": self.request,
            "root": self.tree.root.hex(),
            "key": self.key.hex(),
            "columns": self.columns,
            "leaves": [leaf.hex() for leaf in self.leaves],
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n", mode=0o600)

    def _new_name(self, folder: Path) -> Path:
        """Return a path that is free in `folder`. The root would not do as a name: requests without rows share one."""
        name = f"forgotten_rows.{self.request}-{sha256(self.key).hexdigest()[:8]}"
        places = (folder / f"{name}{f'-{i}' if i else ''}.private.json" for i in count())
        return next(place for place in places if not place.exists())

    @classmethod
    def load(cls, path: str | Path) -> ForgottenRows:
        """Read a private file.

        Raises:
            ValueError: there is no such file, or its content is broken.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            if content["schema"] != PRIVATE_SCHEMA:
                raise ValueError(f"its schema is not {PRIVATE_SCHEMA}")
            leaves = [bytes.fromhex(leaf) for leaf in content["leaves"]]
            rows = cls(content["request"], list(content["columns"]), leaves, bytes.fromhex(content["key"]))
            if rows.tree.root.hex() != content["root"] or len(rows.key) != KEY_BYTES or leaves != sorted(leaves):
                raise ValueError("its key, leaves and root do not belong together")
            if not REQUEST_ID.fullmatch(rows.request):
                raise ValueError("its request id is not valid")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"`private`: {path} is no private file of a receipt: {error}. A run leaves it in its folder `_private`."
            ) from error
        return rows


def _row_key(key: bytes, digest: bytes, copy: int) -> bytes:
    return _keyed(key, b"row", digest, copy.to_bytes(8, "big"))


def verify_inclusion(row: Mapping[str, Any] | bytes, proof: Mapping[str, Any], receipt: Mapping[str, Any]) -> bool:
    """Check a proof that `row` is among the rows of a receipt. This needs nothing private.

    Two proofs are of two different rows only if their `index` differs.

    Args:
        row: the row, or its digest.
        proof: what `ForgottenRows.prove` returned.
        receipt: the receipt, whose root the proof must lead to.
    """
    digest = row if isinstance(row, bytes) else row_digest(row)
    try:
        if proof["schema"] != PROOF_SCHEMA or proof["request"] != receipt["request"]["id"]:
            return False
        key, index = bytes.fromhex(proof["row_key"]), proof["index"]
        path = [bytes.fromhex(sibling) for sibling in proof["path"]]
        published = receipt["forgotten_rows"]
        if not isinstance(index, int) or {len(key), *map(len, path)} != {KEY_BYTES}:
            return False
        root = root_of_path(_keyed(key, digest), index, published["rows"], path)
        return root is not None and root.hex() == published["root"]
    except (KeyError, TypeError, ValueError):
        return False

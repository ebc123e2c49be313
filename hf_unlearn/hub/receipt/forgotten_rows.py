"""The owner's side of a receipt: keyed digests of the forgotten rows, and proofs that one row is among them.

With a random key K of 32 bytes, H = HMAC-SHA256, and the digest d of a row (`rows.py`), its c-th copy (from 0) has

    row key  k = H(K, "row" ‖ d ‖ c as 8 bytes),    leaf = H(k, d),

and the receipt holds the Merkle root over the leaves in ascending order, and their number. Who does not know K cannot tell the
leaves from random bytes: neither a guess of a row nor a copy of the whole data set can be tested against the root, and the order
says nothing. A proof for one row shows k, the leaf's place and its siblings; k is the output of a pseudo-random function and
opens this leaf alone. The owner in turn cannot open the root to a row that is not in it without a collision of SHA-256.

What this proves is that a row was in the request, not that a model forgot it: that is what the report measures. Whoever gets the
private file can test guesses, and so can the ones to whom the owner gives it.
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

PRIVATE_FOLDER = "_private"  # `Trainer.push_to_hub` uploads nothing that starts with an underscore
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
    """Key and leaves of one request; whoever holds it can test guesses, so it stays with the owner.

    Attributes:
        request: id of the request.
        columns: names of the rows' columns, sorted: rows with others cannot be among them.
        leaves: 32 bytes for each row, ascending; copies of a row have a leaf each.
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
            request: id of the request, not about a person; by default random.
            key: by default random, and never to be used twice.

        Raises:
            ValueError: an id of other characters, or a key of another length.
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
        """A keyed digest, in hex, of the first `limit` rows of a data set called `name`, in their order; images as stored.

        Its key, `set_key(name)`, can be shown without K. Who has that key and every row but a few can try out the others.
        """
        total = sha256()
        first = (
            rows.select(range(min(limit, len(rows))))
            if hasattr(rows, "select")
            else islice(rows, min(limit, len(rows)))
        )
        for digest in row_digests(first, pixels=False):
            total.update(digest)
        return _keyed(self.set_key(name), total.digest()).hex()

    def set_key(self, name: str) -> bytes:
        return _keyed(self.key, b"set", name.encode())

    def contains(self, row: Mapping[str, Any] | bytes, copy: int = 0) -> bool:
        """Whether `row` (or the row of this digest) is in the request, beside `copy` rows that are equal to it."""
        return self._find(row, copy) is not None

    def _find(self, row: Mapping[str, Any] | bytes, copy: int) -> tuple[bytes, int] | None:
        """Key and place of the row's leaf."""
        digest = row if isinstance(row, bytes) else row_digest(row)
        key = _row_key(self.key, digest, copy)
        leaf = _keyed(key, digest)
        index = bisect_left(self.leaves, leaf)
        return (key, index) if index < len(self.leaves) and self.leaves[index] == leaf else None

    def prove(self, row: Mapping[str, Any] | bytes, copy: int = 0) -> dict[str, Any] | None:
        """A proof, JSON-ready, that `row` is in the request, for `verify_inclusion`; None where it is not.

        Each of several equal rows has a leaf and a proof: that of `copy` 0, 1, ...
        """
        found = self._find(row, copy)
        if found is None:
            return None
        key, index = found
        path = [sibling.hex() for sibling in self.tree.path(index)]
        return {"schema": PROOF_SCHEMA, "request": self.request, "row_key": key.hex(), "index": index, "path": path}

    def save(self, path: str | Path) -> None:
        """Write the private file, readable by its owner alone; another that lies there is moved aside: its key is its owner's proof."""
        path = Path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            former = self.load(path)
            if former != self:
                os.replace(path, former._place_aside(path.parent))
        content = {
            "schema": PRIVATE_SCHEMA,
            "request": self.request,
            "root": self.tree.root.hex(),
            "key": self.key.hex(),
            "columns": self.columns,
            "leaves": [leaf.hex() for leaf in self.leaves],
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n", mode=0o600)

    def _place_aside(self, folder: Path) -> Path:
        """A name that no file there has; roots would not do, for all requests without rows share one."""
        name = f"forgotten_rows.{self.request}-{sha256(self.key).hexdigest()[:8]}"
        places = (folder / f"{name}{f'-{i}' if i else ''}.private.json" for i in count())
        return next(place for place in places if not place.exists())

    @classmethod
    def load(cls, path: str | Path) -> ForgottenRows:
        """The inverse of `save`.

        Raises:
            ValueError: no such file, or its content is broken.
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
                raise ValueError("its request id is none")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"`private`: {path} is no private file of a receipt: {error}.") from error
        return rows


def _row_key(key: bytes, digest: bytes, copy: int) -> bytes:
    return _keyed(key, b"row", digest, copy.to_bytes(8, "big"))


def verify_inclusion(row: Mapping[str, Any] | bytes, proof: Mapping[str, Any], receipt: Mapping[str, Any]) -> bool:
    """Whether `proof` shows that `row` (or the row of this digest) is among those whose root `receipt` holds.

    Needs nothing private. That two proofs are of two rows, their `index` has to tell.
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

"""The Merkle tree of RFC 6962, section 2.1: one digest of many leaves, and short proofs that a leaf is among them.

A leaf d is hashed as SHA-256(0x00 ‖ d) and a node as SHA-256(0x01 ‖ left ‖ right), so that a node cannot be shown as a leaf.
"""

from collections.abc import Sequence
from hashlib import sha256


def leaf_hash(leaf: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ leaf), 32 bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """The tree over `leaves`, in their order. It takes 64 bytes of memory for each.

    Attributes:
        root: 32 bytes. Without leaves it is the SHA-256 of no bytes, as in the RFC.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.levels = [[leaf_hash(leaf) for leaf in leaves]]
        while len(self.levels[-1]) > 1:
            level = self.levels[-1]
            above = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            self.levels.append(above + level[2 * len(above) :])  # A last node without a neighbor moves up as it is.
        self.root = self.levels[-1][0] if leaves else sha256(b"").digest()

    def path(self, index: int) -> list[bytes]:
        """Return the siblings on the way from leaf `index` to the root, the lowest first."""
        siblings = []
        for level in self.levels[:-1]:
            beside = index ^ 1
            if beside < len(level):
                siblings.append(level[beside])
            index //= 2
        return siblings


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that `path` gives for `leaf`, number `index` of `size`, or None for an impossible path.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    digest, last = leaf_hash(leaf), size - 1
    for sibling in path:
        if last == 0:
            return None
        if index % 2 or index == last:
            digest = node_hash(sibling, digest)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            digest = node_hash(digest, sibling)
        index, last = index // 2, last // 2
    return digest if last == 0 else None

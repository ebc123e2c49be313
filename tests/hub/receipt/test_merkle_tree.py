"""The Merkle tree against the vectors and the recursive definitions of RFC 6962."""

from hashlib import sha256

import pytest

from hf_unlearn.hub.receipt.merkle_tree import MerkleTree, leaf_hash, root_of_path

RFC_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]


RFC_ROOTS = [  # the vectors of the Certificate Transparency log's reference implementation, for 0 to 8 leaves
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_rfc_6962(size):
    assert MerkleTree(RFC_LEAVES[:size]).root.hex() == RFC_ROOTS[size]


def tree_hash(leaves):
    """MTH of RFC 6962, 2.1, word for word."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    cut = 1
    while 2 * cut < len(leaves):
        cut *= 2
    return sha256(b"\x01" + tree_hash(leaves[:cut]) + tree_hash(leaves[cut:])).digest()


def audit_path(index, leaves):
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    cut = 1
    while 2 * cut < len(leaves):
        cut *= 2
    if index < cut:
        return [*audit_path(index, leaves[:cut]), tree_hash(leaves[cut:])]
    return [*audit_path(index - cut, leaves[cut:]), tree_hash(leaves[:cut])]


@pytest.mark.parametrize("size", range(1, 18))
def test_every_leaf_of_every_size_is_proven_and_at_no_other_place(size):
    leaves = [bytes([i]) * 3 for i in range(size)]
    tree = MerkleTree(leaves)
    assert tree.root == tree_hash(leaves)
    for index, leaf in enumerate(leaves):
        path = tree.path(index)
        assert path == audit_path(index, leaves)
        assert root_of_path(leaf, index, size, path) == tree.root
        for wrong in (*range(-1, index), *range(index + 1, size + 2)):
            assert root_of_path(leaf, wrong, size, path) != tree.root
        assert root_of_path(leaf, index, size, [*path, tree.root]) is None
        assert not path or root_of_path(leaf, index, size, path[:-1]) != tree.root


def test_a_node_is_no_leaf():
    left, right = b"left", b"right"
    tree = MerkleTree([left, right])
    assert root_of_path(leaf_hash(left) + leaf_hash(right), 0, 1, []) != tree.root

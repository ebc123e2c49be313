"""How long a shard is trained: in stages, of which each takes in one more slice, so that a deletion restarts from the stage before.

Stage j of R trains on the slices 1 to j together (SISA, arXiv 1912.03817). If every stage took the same share of the passes, a deletion
in a random slice would repeat (R + 1) / 2R of them, 0.63 for R = 4. Here the first stage takes two parts of R + 1, and each later one
takes one, so that 1 / R + (R − 1) / 2(R + 1) are repeated, 0.55 for R = 4.
"""

import math
from collections.abc import Sequence


def shares(slices: int) -> list[float]:
    """Return the share of all passes that each stage takes: two parts for the first, one for each later one."""
    return [1.0] if slices == 1 else [(2.0 if stage == 0 else 1.0) / (slices + 1) for stage in range(slices)]


def stage_steps(rows: Sequence[int], epochs: float, batch_size: int) -> list[int]:
    """Return the number of steps of each stage. It depends on the rows of this shard alone.

    Args:
        rows: number of rows of each slice.
        epochs: passes over all rows of a shard whose slices are of one size, in all stages together.
        batch_size: rows of a step.
    """
    seen, found = 0, []
    for stage, (share, own) in enumerate(zip(shares(len(rows)), rows, strict=True)):
        seen += own
        passes = (
            epochs * share * len(rows) / (stage + 1)
        )  # over the rows seen so far, a share (stage + 1) / slices of all
        found.append(math.ceil(seen * passes / batch_size))
    return found


def repeated_share(slices: int) -> float:
    """Return the mean share of a shard's passes that a deletion in a random slice repeats, if slices are of one size."""
    parts = shares(slices)
    return sum(sum(parts[first:]) for first in range(slices)) / slices

"""Whether two models prepare rows in the same way: a model can hide what it knows behind its image processor or tokenizer."""

from collections.abc import Mapping
from typing import Any

import torch

from ...data.pairs import PreparedRows
from ...models.processor import Processor

ROWS = 8  # of each set that are prepared in both ways


def prepares_differently(own: Processor, other: Processor, sets: Mapping[str, PreparedRows]) -> str:
    """Return in words how `own` prepares rows otherwise than `other`; "" if both make the same inputs of all that are tried.

    Args:
        sets: rows of `other` by the name of their set. Some of them, spread over each set, are tried.
    """
    for name, rows in sets.items():
        for i in sorted({(len(rows) - 1) * k // (ROWS - 1) for k in range(ROWS)}):
            theirs = rows[i]
            try:
                ours = own(rows.rows[i])
            except ValueError as error:
                return f"it cannot read row {i} of `{name}` ({error})"
            if ours.keys() != theirs.keys() or any(not _equal(ours[k], theirs[k]) for k in ours):
                return (
                    _settings(own.processing_class, other.processing_class)
                    or f"row {i} of `{name}` becomes another input"
                )
    return ""


def _equal(a: Any, b: Any) -> bool:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool(torch.equal(a, b))


def _settings(own: Any, other: Any) -> str:
    """Return the settings in which two image processors differ; "" for tokenizers."""
    if not (hasattr(own, "to_dict") and hasattr(other, "to_dict")):
        return ""
    ours, theirs = own.to_dict(), other.to_dict()
    names = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    return ", ".join(f"{k}={ours.get(k)!r} (original: {theirs.get(k)!r})" for k in names[:3])

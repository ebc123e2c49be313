"""What the measures read: arrays, tensors or lists, one entry per sample, checked once and in the same words everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SETS = ("forget", "retain", "test")


def class_ids(values: Any, argument: str) -> np.ndarray:
    """`values` as (n,) int64 class ids.

    Raises:
        ValueError: no sample, another shape, anything but whole numbers from 0 up.
    """
    array = to_numpy(values, argument)
    if array.size == 0:
        raise ValueError(f"`{argument}` is empty: nothing can be measured. Pass one class id per sample.")
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(
            f"`{argument}` must be class ids, whole numbers of shape (n,), got {array.dtype} of shape {array.shape}. For "
            "logits pass `.argmax(-1)`; drop rows without a class."
        )
    if array.min() < 0:
        raise ValueError(
            f"`{argument}` holds {array.min()}, and class ids start at 0. Drop the rows that have no class."
        )
    return array.astype(np.int64)


def group_codes(values: Any, argument: str, rows: int | None = None) -> tuple[list[Any], np.ndarray]:
    """The distinct values (k), sorted, and each sample's position (n,) among them.

    Args:
        rows: how many samples there must be, if known.

    Raises:
        ValueError: no sample, another number than `rows`, or a missing value.
    """
    listed = scalars(values)
    if rows is not None and len(listed) != rows:
        raise ValueError(f"`{argument}` has {len(listed)} values for {rows} samples. Give one per row.")
    if not listed:
        raise ValueError(f"`{argument}` is empty: nothing can be measured. Pass one value per sample.")
    if any(v is None or v != v for v in listed):
        raise ValueError(f"`{argument}` holds missing values (None or NaN). Drop those rows, or give them a group.")
    names = sorted(set(listed), key=lambda v: (isinstance(v, str), v))
    position = {name: i for i, name in enumerate(names)}
    return names, np.array([position[v] for v in listed])


def log_probabilities(logits: Any, argument: str) -> Tensor:
    """Log-softmax (n, classes) in fp64 of `logits`; log-probabilities come through unchanged.

    Raises:
        ValueError: no sample, fewer than two classes, another shape, NaN, or a row without a finite largest entry.
    """
    x = to_numpy(logits, argument)
    if x.ndim != 2 or len(x) == 0 or x.shape[1] < 2 or x.dtype.kind not in "fiub":
        raise ValueError(
            f"`{argument}` must be logits of shape (samples, classes), two classes at least, got {x.dtype} of shape {x.shape}."
        )
    log_p = torch.log_softmax(torch.tensor(x, dtype=torch.float64), dim=-1)
    if log_p.isnan().any():
        raise ValueError(f"`{argument}` holds NaN or infinite logits: the model's outputs are broken. Repair it first.")
    return log_p


def outputs_by_set(
    logits: Any, labels: Any | None, sets: Any, needed: tuple[str, ...]
) -> dict[str, tuple[Tensor, np.ndarray | None]]:
    """Log-probabilities (n_s, classes) and labels (n_s,) of each set that `sets` names, without labels None.

    Raises:
        ValueError: as `log_probabilities`, `class_ids` and `rows_by_set`; or unequal lengths.
    """
    log_p = log_probabilities(logits, "predictions")
    ids = None if labels is None else class_ids(labels, "references")
    same_length(predictions=log_p, sets=sets, **({} if ids is None else {"references": ids}))
    rows = rows_by_set(sets, needed)
    return {name: (log_p[torch.as_tensor(r)], None if ids is None else ids[r]) for name, r in rows.items()}


def rows_by_set(sets: Any, needed: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Positions of the samples of each set of `SETS` that `sets` (n,) names.

    Raises:
        ValueError: no sample, a missing value, another name, or no sample of a set that is `needed`.
    """
    names, codes = group_codes(sets, "sets")
    unknown = [repr(name) for name in names if name not in SETS]
    if unknown:
        raise ValueError(
            f"`sets` holds {', '.join(unknown[:5])}. Name each sample's set: {', '.join(map(repr, SETS))}."
        )
    missing = [repr(name) for name in needed if name not in names]
    if missing:
        raise ValueError(
            f"`sets` has no sample of {', '.join(missing)}: this measure compares {', '.join(map(repr, needed))}. Add them."
        )
    return {name: np.flatnonzero(codes == i) for i, name in enumerate(names)}


def same_length(**columns: Any) -> None:
    """Raise ValueError, naming both, where two columns differ in length."""
    (first, n), *others = ((name, len(column)) for name, column in columns.items())
    for name, m in others:
        if m != n:
            raise ValueError(f"`{name}` has {m} entries and `{first}` {n}: pass one per sample, in the same order.")


def scalars(values: Any) -> list[Any]:
    """`values` as a list of Python scalars, so that 1 of numpy, of torch and of Python are one value."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [v.item() if hasattr(v, "item") else v for v in listed]


def to_numpy(values: Any, argument: str) -> np.ndarray:
    """An array of an array, tensor or list, on the CPU; bfloat16, which NumPy lacks, as fp32.

    Raises:
        ValueError: rows of unequal length.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` has rows of unequal length: pass one row of equal length per sample."
        ) from error

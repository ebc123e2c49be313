"""Columns as the measures read them: arrays, tensors or lists, checked once and with the same messages everywhere."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

SETS = ("forget", "retain", "test")


def class_ids(values: Any, argument: str) -> np.ndarray:
    """Return `values` as class ids (n,), int64. Raises ValueError if there is none, or one is not a whole number from 0."""
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


def predicted_and_true(predictions: Any, labels: Any, **others: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true class ids (n,). Raises ValueError if one is invalid or two columns differ in length."""
    predicted, true = class_ids(predictions, "predictions"), class_ids(labels, "references")
    same_length(predictions=predicted, references=true, **others)
    return predicted, true


def group_codes(values: Any, argument: str, rows: int | None = None) -> tuple[list[Any], np.ndarray]:
    """Return the distinct values (k) and the position (n,) of each sample among them.

    The values are sorted, numbers before text. Values that Python cannot compare, such as members of an enum, are sorted
    by their text.

    Raises ValueError if there is no sample, another number of them than `rows`, or a missing value (None or NaN).
    """
    listed = scalars(values)
    if rows is not None and len(listed) != rows:
        raise ValueError(f"`{argument}` has {len(listed)} values for {rows} samples. Give one per row.")
    if not listed:
        raise ValueError(f"`{argument}` is empty: nothing can be measured. Pass one value per sample.")
    if any(v is None or v != v for v in listed):
        raise ValueError(f"`{argument}` holds missing values (None or NaN). Drop those rows, or give them a group.")
    try:
        names = sorted(set(listed), key=lambda v: (isinstance(v, str), v))
    except TypeError:
        names = sorted(set(listed), key=str)
    position = {name: i for i, name in enumerate(names)}
    return names, np.array([position[v] for v in listed])


def log_probabilities(logits: Any, argument: str) -> Tensor:
    """Return the log-softmax (n, classes) of `logits` in fp64. Log-probabilities stay as they are.

    Raises ValueError if there is no sample, fewer than two classes, another shape, NaN or an infinite maximum.
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
    logits: Any, labels: Any | None, sets: Any, needed: tuple[str, ...] = ("retain", "test", "forget")
) -> list[tuple[Tensor, np.ndarray | None]]:
    """Return log-probabilities (n_s, classes) and labels (n_s,), if there are labels, of each set in `needed`, in order.

    Raises ValueError if a column is invalid, a set has no sample, or two columns differ in length.
    """
    log_p = log_probabilities(logits, "predictions")
    ids = None if labels is None else class_ids(labels, "references")
    same_length(predictions=log_p, sets=sets, **({} if ids is None else {"references": ids}))
    rows = rows_by_set(sets, needed)
    return [(log_p[torch.as_tensor(rows[name])], None if ids is None else ids[rows[name]]) for name in needed]


def rows_by_set(sets: Any, needed: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the positions of the samples of each set that `sets` (n,) names.

    Raises ValueError if a name is missing or not in `SETS`, or a set in `needed` has no sample.
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
    """Raise ValueError, with the names of both, if a column differs in length from the first."""
    (first, n), *others = ((name, len(column)) for name, column in columns.items())
    for name, m in others:
        if m != n:
            raise ValueError(f"`{name}` has {m} entries and `{first}` {n}: pass one per sample, in the same order.")


def scalars(values: Any) -> list[Any]:
    """Return `values` as a list of Python scalars, so that the 1 of NumPy, of torch and of Python are one value."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [v.item() if hasattr(v, "item") else v for v in listed]


def to_numpy(values: Any, argument: str) -> np.ndarray:
    """Return an array, tensor or list as an array. Raises ValueError if its rows differ in length."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()  # NumPy has no bfloat16
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` has rows of unequal length. Pass rows of one length, one per sample."
        ) from error

"""What the measures read: arrays, tensors or lists, one entry per sample, checked once and in the same words everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def class_ids(values: Any, argument: str) -> np.ndarray:
    """`values` as (n,) int64 class ids.

    Raises:
        ValueError: no sample, another shape, anything but whole numbers from 0 up.
    """
    array = to_numpy(values)
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


def group_codes(values: Any, argument: str) -> tuple[list[Any], np.ndarray]:
    """The distinct values (k), sorted, and each sample's position (n,) among them.

    Raises:
        ValueError: no sample, or a missing value.
    """
    listed = scalars(values)
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
    x = logits.detach().cpu() if isinstance(logits, Tensor) else torch.as_tensor(to_numpy(logits))
    if x.ndim != 2 or len(x) == 0 or x.shape[1] < 2:
        raise ValueError(
            f"`{argument}` must be logits of shape (samples, classes), two classes at least, got {tuple(x.shape)}."
        )
    log_p = torch.log_softmax(x.double(), dim=-1)
    if log_p.isnan().any():
        raise ValueError(f"`{argument}` holds NaN or infinite logits: the model's outputs are broken. Repair it first.")
    return log_p


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


def to_numpy(values: Any) -> np.ndarray:
    """An array of an array, tensor or list, on the CPU; bfloat16, which NumPy lacks, as fp32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)

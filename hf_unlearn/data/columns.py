"""Columns of a data set: its labels, its groups, and the classes that a request names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets


LABEL_COLUMNS = ("label", "labels")


LISTED = 50  # classes that an error lists


def arrow_column(dataset: datasets.Dataset, name: str, argument: str) -> Any:
    """One column as an Arrow array, through the data set's index mapping, nothing decoded."""
    if name not in dataset.column_names:
        raise ValueError(
            f"`{argument}={name!r}` is not a column of the data set; it has {', '.join(dataset.column_names)}."
        )
    column = dataset.data.column(name)
    if dataset._indices is not None:  # `datasets` itself would gather row by row
        column = column.take(dataset._indices.column(0))
    return column.combine_chunks()


def find_label_column(dataset: Any, preferred: str | None = None) -> str | None:
    """The label column of `dataset`, or None."""
    names: Any = getattr(dataset, "column_names", None) or next(iter(dataset), {})
    return next((c for c in (preferred, *LABEL_COLUMNS) if c in names), None)


def read_labels(dataset: datasets.Dataset, label_column: str = "label") -> np.ndarray:
    """All class ids of `dataset`, shape (rows,)."""
    column = arrow_column(dataset, label_column, "label_column")
    return column.to_numpy(zero_copy_only=False)


def read_groups(dataset: Any, column: str | None, argument: str = "attribute") -> tuple[np.ndarray, list[str]]:
    """The groups that the values of `column` form: numbers (rows,) from 0, and the names of the groups in that order.

    Raises:
        ValueError: no such column, a stream, missing values, more groups than a twentieth of the rows, or only one.
    """
    if column is None:
        raise ValueError(f"`{argument}` is missing: the column whose values are the groups, such as 'gender'.")
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        raise ValueError(f"`{argument}={column!r}`: groups are counted first, which a stream does not allow.")
    values = arrow_column(dataset, column, argument)
    encoded = values.dictionary_encode()
    present = encoded.dictionary.to_pylist()
    missing = values.null_count + sum(v != v for v in values.to_pylist() if isinstance(v, float))
    if missing:
        raise ValueError(
            f"`{argument}={column!r}` has {missing} missing values. Drop those rows, or give them a value of their own."
        )
    if len(present) < 2:
        raise ValueError(f"`{argument}={column!r}` has one value only: there are no groups to tell apart.")
    if len(present) > max(2, len(values) // 20):
        raise ValueError(
            f"`{argument}={column!r}` has {len(present)} different values in {len(values)} rows, so it is no group. Bin a "
            "continuous one first: `dataset.map(lambda r: {'bin': int(r['age'] // 10)})`."
        )
    named = getattr(dataset.features.get(column), "names", None)
    ordered = sorted(present)
    number = np.array([ordered.index(v) for v in present])
    return number[encoded.indices.to_numpy(zero_copy_only=False)], [named[v] if named else str(v) for v in ordered]


def read_strata(dataset: Any, groups: np.ndarray, preferred: str | None = None) -> np.ndarray:
    """Label and group, one of `groups`, of every row as one number, (rows,)."""
    column = find_label_column(dataset, preferred)
    assert column is not None
    _, labels = np.unique(read_labels(dataset, column), return_inverse=True)
    return labels * (groups.max() + 1) + groups


def class_ids(
    dataset: datasets.Dataset, label: str | int | Sequence[str | int], label_column: str = "label"
) -> list[Any]:
    """Resolve class names or ids to the values stored in `label_column`; unknown and ambiguous ones raise ValueError."""
    feature = dataset.features.get(label_column)
    names = list(getattr(feature, "names", None) or [])
    present = None
    ids: list[Any] = []
    for one in [label] if isinstance(label, str | int) else label:
        number = _id_of_name(one, names)
        if number is not None:
            ids.append(number)
            continue
        if present is None:
            present = set(np.unique(read_labels(dataset, label_column)).tolist())
        digits = one.removeprefix("id:") if isinstance(one, str) else ""
        value: Any = int(digits) if digits.lstrip("-").isdecimal() and one not in present else one
        if isinstance(one, str) and one not in present and (name := one.removeprefix("name:")) in present:
            value = name  # of a column of texts
        if value not in present:
            known = names or [str(v) for v in sorted(present)]
            more = f", and {len(known) - LISTED} more" if len(known) > LISTED else ""
            raise ValueError(f"`label={one!r}` is no class of the data set. It has: {', '.join(known[:LISTED])}{more}.")
        ids.append(value)
    return ids


def _id_of_name(label: str | int, names: Sequence[str]) -> int | None:
    """The id of the class that is called `label` or, with `name:` before it, that; None where none is.

    Raises:
        ValueError: the name is the id of another class.
    """
    if label not in names:
        name = label.removeprefix("name:") if isinstance(label, str) else label
        return names.index(name) if name in names else None
    number = names.index(label)
    if label != str(number) and label in [str(i) for i in range(len(names))]:
        raise ValueError(
            f"`label={label!r}` is the name of class {number}, and the id of another, which is called "
            f"{names[int(label)]!r}. Write 'name:{label}' or 'id:{label}'."
        )
    return number

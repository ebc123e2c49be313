"""Columns of a data set: its labels, its groups, and the classes that a request names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.argument_checks import did_you_mean

if TYPE_CHECKING:
    import datasets

LABEL_COLUMNS = ("label", "labels")
LISTED = 50  # classes that an error lists


def check_column(names: Iterable[str], name: str, argument: str) -> None:
    """Raise ValueError if `name`, the value of `argument`, is not one of the columns `names`."""
    if name not in names:
        hint = did_you_mean(name, names)
        if argument == "label_column" and list(names) == ["image"]:
            hint = " Make a folder for each class, as in `train/cat/1.png`, or list pictures and classes in a `metadata.csv`."
        raise ValueError(f"`{argument}={name!r}` is not a column of the data set; it has {', '.join(names)}.{hint}")


def arrow_column(dataset: datasets.Dataset, name: str, argument: str) -> Any:
    """Return a column as an Arrow array, in the order of the data set's index mapping and without decoding."""
    check_column(dataset.column_names, name, argument)
    column = dataset.data.column(name)
    if dataset._indices is not None:  # `datasets` itself would gather row by row.
        column = column.take(dataset._indices.column(0))
    return column.combine_chunks()


def flat_column(dataset: datasets.Dataset, name: str, argument: str) -> Any:
    """Return `arrow_column` of a column with one plain value in each row. Raises ValueError for lists, structures and the like."""
    import pyarrow as pa

    column = arrow_column(dataset, name, argument)
    if pa.types.is_nested(column.type) or isinstance(column.type, pa.BaseExtensionType):
        what = "lists or structures"
        if str(column.type).startswith("extension"):
            what = f"values of several kinds (see row {other_kind(dataset, name)})"
        raise ValueError(
            f"`{argument}={name!r}` is a column of {what}, and one text or one number in each row is needed. Make them texts: "
            f"`dataset.map(lambda r: {{{name!r}: str(r[{name!r}])}})`."
        )
    return column


def other_kind(dataset: datasets.Dataset, name: str) -> int:
    """Return the first row in which a column holds another kind of value than in the rows before; 0 if there is none."""
    kinds = [(row, type(value)) for row, value in enumerate(dataset[name]) if value is not None]
    return next((row for row, kind in kinds if kind is not kinds[0][1]), 0)


def find_label_column(dataset: Any, preferred: str | None = None) -> str | None:
    """Return the name of the label column of `dataset`, or None."""
    names: Any = getattr(dataset, "column_names", None) or next(iter(dataset), {})
    return next((c for c in (preferred, *LABEL_COLUMNS) if c in names), None)


def as_list(labels: str | int | Sequence[str | int]) -> list[str | int]:
    """Return one class or several as a list. A number of NumPy is one class."""
    return [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)


def read_labels(dataset: datasets.Dataset, label_column: str = "label") -> np.ndarray:
    """Return all class ids of `dataset`, shape (rows,)."""
    return arrow_column(dataset, label_column, "label_column").to_numpy(zero_copy_only=False)


def read_groups(dataset: Any, column: str | None, argument: str = "attribute") -> tuple[np.ndarray, list[str]]:
    """Return the group of each row, numbered from 0, shape (rows,), and the names of the groups in that order.

    Raises:
        ValueError: the column does not exist, has missing values, has a single value, or has more values than a twentieth of
            the rows; or the data set is a stream.
    """
    if column is None:
        raise ValueError(f"`{argument}` is missing: the column whose values are the groups, such as 'gender'.")
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        raise ValueError(f"`{argument}={column!r}`: groups are counted first, which a stream does not allow.")
    values = flat_column(dataset, column, argument)
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
    """Return one number for each pair of label and group, (rows,). `groups` are the groups of the rows, (rows,)."""
    column = find_label_column(dataset, preferred)
    assert column is not None
    _, labels = np.unique(read_labels(dataset, column), return_inverse=True)
    return labels * (groups.max() + 1) + groups


def class_ids(
    dataset: datasets.Dataset, label: str | int | Sequence[str | int], label_column: str = "label"
) -> list[Any]:
    """Return the values in `label_column` of the classes that `label` gives by name or id.

    A value counts in every form in which an error lists it: `True`, `true` and `1`, or `1.0` and `1`, are the same.

    Raises:
        ValueError: a class does not exist, a text is the name of one class and the id of another, or the column holds lists.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = list(getattr(dataset.features.get(label_column), "names", None) or [])
    column = arrow_column(dataset, label_column, "label_column")
    if pa.types.is_nested(column.type):
        raise ValueError(
            f"`label_column={label_column!r}` holds several values in each row (multi-label), and `label` names a class of a column "
            "with one value in each row. Select the rows by `indices`, `ids_file` or `predicate`."
        )
    flat_column(dataset, label_column, "label_column")
    present: list[Any] | None = None
    ids: list[Any] = []
    for one in as_list(label):
        number = _id_of_name(one, names)
        if number is not None:
            ids.append(number)
            continue
        if present is None:
            present = sorted(v for v in pc.unique(column).to_pylist() if v is not None and v == v)
        value = _value_of(one, present)
        if value is None:
            raise ValueError(
                f"`label={one!r}` is no class of the data set. {_classes(names, set(present), label_column, one)}"
            )
        ids.append(value)
    return ids


def _value_of(given: Any, present: Sequence[Any]) -> Any:
    """Return the value among `present` that `given` means, or None. Numbers and truth values may be given as texts."""
    if not isinstance(given, str) or (present and isinstance(present[0], str)):
        forms = (given, given.removeprefix("name:")) if isinstance(given, str) else (given,)
        return next((v for form in forms for v in present if v == form), None)
    text = given.removeprefix("id:")
    spelt = {form: v for v in present for form in (str(v), str(v).lower())}
    if text in spelt:
        return spelt[text]
    try:
        return next((v for v in present if v == float(text)), None)
    except (ValueError, TypeError):
        return None


def _id_of_name(label: str | int, names: Sequence[str]) -> int | None:
    """Return the id of the class named `label` (also written `name:…`), or None if no class has that name."""
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


def _classes(names: Sequence[str], present: set[Any], label_column: str, given: object) -> str:
    """Say which classes there are. Values of a column that does not name its classes are counted, as they may be ids of persons."""
    if names:
        more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return f"It has: {', '.join(names[:LISTED])}{more}.{did_you_mean(str(given), names)}"
    if present == set(range(len(present))):
        return f"It has: 0 to {len(present) - 1}."
    if isinstance(given, str) and _plain(given) in map(_plain, present):
        return f"Its column '{label_column}' has it with other capitals, spaces or accents. Write all labels as the model's `label2id`."
    return (
        f"Its column '{label_column}' holds {len(present)} different values, and does not name its classes. If these values are "
        "no classes, choose another `label_column`."
    )


def _plain(name: object) -> str:
    """Return a name without capitals, spaces around it and composed letters, by which names that look alike are found."""
    return unicodedata.normalize("NFD", str(name)).strip().casefold()

"""Labels of a model: the names of its classes, what its head is for, and the number of a label that a row gives."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.class_names import describe_wrong_label, is_numbering, numbers_of_names

MISSING = (-1, -100)  # numbers by which data sets and collators mark rows without a label


def head_names(config: Any) -> dict[str, int]:
    """Return the numbers of the classes by their names in `label2id` and `id2label`. Generic names yield to others.

    Raises:
        ValueError: both give one name different numbers.
    """
    given = {str(k): int(v) for k, v in (getattr(config, "label2id", None) or {}).items()}
    ids = sorted((int(i), str(name)) for i, name in (getattr(config, "id2label", None) or {}).items())
    for number, name in ids:
        if name in given and (given[name], name) not in ids:
            raise ValueError(
                f"`label2id` and `id2label` of the model's configuration contradict each other: {name!r} is {given[name]} in "
                f"the first and {number} in the second. Correct one of them."
            )
    if not given or (is_numbering((i, n) for n, i in given.items()) and not is_numbering(ids)):
        return {name: number for number, name in ids}
    return given


def check_head(config: Any, column: str) -> None:
    """Raise ValueError if the head is not for one class in each row of the label `column`: regression or multi-label."""
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        what = f"`problem_type={problem!r}`, a multi-label head: each row may have several labels"
    elif problem == "regression" or config.num_labels == 1:
        what = (
            f"`num_labels={config.num_labels}` and `problem_type={problem!r}`, a regression head: labels are no classes"
        )
    else:
        return
    raise ValueError(
        f"`model` has {what}. Unlearning here needs one class in column '{column}' for each row, and a head with two or more classes "
        "(`problem_type='single_label_classification'`)."
    )


def missing_labels(labels: np.ndarray) -> np.ndarray:
    """Return booleans (n,) for labels of a column: which of them are missing."""
    if labels.dtype.kind == "O":  # `None` among numbers or texts
        return np.array([is_missing(v) for v in labels.tolist()], dtype=bool)
    return np.isnan(labels) if labels.dtype.kind == "f" else np.zeros(len(labels), bool)


def is_missing(label: Any) -> bool:
    """True for None and NaN: the row has no label."""
    return label is None or (not isinstance(label, str) and np.ndim(label) == 0 and bool(label != label))


def class_number(value: Any, column: str, label2id: Mapping[str, int], classes: int) -> int:
    """Return the number of a class that `value` of `column` gives by number or name.

    Raises:
        ValueError: the head of `classes` has no such class.
    """
    if isinstance(value, str):
        number = label2id.get(value)
        number = numbers_of_names([value], label2id)[0] if number is None else number
        if number is None and value.isdecimal() and int(value) < classes:
            number = int(value)
        if number is None:
            raise ValueError(
                f"a label in column '{column}' is not in the model's `label2id`. Rename the class, or set `label2id` and "
                "`id2label` in the model's configuration."
            )
        return number
    if np.ndim(value):
        raise ValueError(describe_wrong_label(column, "list"))
    number = int(value)
    if number != value:
        raise ValueError(
            f"a label in column '{column}' is no whole number, and labels are class numbers. Regression (`num_labels=1`) is "
            "not supported."
        )
    if not 0 <= number < classes:
        hint = " It marks a missing label: drop or label such rows." if number in MISSING else ""
        raise ValueError(
            f"a label in column '{column}' is outside the model's {classes} classes (0..{classes - 1}).{hint}"
        )
    return number

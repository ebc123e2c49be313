"""The bias pattern of a report: a column of the test set, the label that each of its values points to, and its measures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ...data.columns import find_label_column
from ...metrics.functional import intervals
from ...metrics.functional.fairness import bias_labels, label_groups
from ...metrics.functional.intervals import Interval
from ...models.processor import Processor

NONE = "(none)"  # the name of a missing value


@dataclass(frozen=True)
class Pattern:
    """A column, and the class id that each value points to. Values that are not in `labels` point to no label."""

    column: str
    labels: dict[str, int]

    def pointed(self, values: Sequence[str]) -> np.ndarray:
        """Return the class id (n,) that each value points to, −1 for none."""
        return bias_labels(values, {v: self.labels.get(v) for v in set(values)})


def read_pattern(
    bias_column: str | None, bias_labels: Mapping[Any, Any] | Sequence[str] | None, processor: Processor, test: Any
) -> Pattern | None:
    """Check the pattern against the test set before anything runs, and return it; None if the user gave none.

    Args:
        bias_column: name of a column of `test`.
        bias_labels: value -> class id or name, as a mapping, as words `value=label`, or as JSON.

    Raises:
        ValueError: only one of the two is given, there is no test set or it is a stream, a column, value or label is
            unknown, or the pattern never points away from the label.
    """
    given = parse_pattern(bias_column, bias_labels)
    if given is None:
        return None
    column, labels = given
    if test is None or not hasattr(test, "column_names") or not hasattr(test, "__len__"):
        raise ValueError("`bias_column` needs a test set that is no stream. Name one, with `test_split`.")
    if column not in test.column_names:
        raise ValueError(f"`bias_column={column!r}` is not in the test set, which has {', '.join(test.column_names)}.")
    values, named = read_values(test, column), {name_of(v): label for v, label in labels.items()}
    unknown = [repr(v) for v in named if v not in set(values)]
    if unknown:
        others = len(set(values))  # counted, because they may be ids of persons
        raise ValueError(
            f"`bias_labels`: {', '.join(unknown)} is no value of '{column}' in the test set, which has {others} others."
        )
    pattern = Pattern(column, {value: _class_id(label, processor) for value, label in named.items()})
    label_column = find_label_column(test, processor.label_column)
    if label_column is None:
        raise ValueError("`bias_column` needs labels in the test set. Name their column with `label_column`.")
    if any(label is None for label in test[label_column]):
        raise ValueError(f"`bias_column` needs a label in every test row, but '{label_column}' is empty in some.")
    true = np.array([processor.class_id(label, label_column) for label in test[label_column]])
    pointed = pattern.pointed(values)
    if not ((pointed >= 0) & (pointed != true)).any():
        raise ValueError(
            f"`bias_labels`: in the test set '{column}' never points away from the label, so a model that follows it cannot "
            "be told from one that is right. Measure on a set where column and label are independent."
        )
    return pattern


def parse_pattern(
    bias_column: str | None, bias_labels: Mapping[Any, Any] | Sequence[str] | None
) -> tuple[str, Mapping[Any, Any]] | None:
    """Return the column and its labels as a mapping, None if neither is given. Raises ValueError if only one is given."""
    if bias_column is None and not bias_labels:
        return None
    labels = _mapping(bias_labels or {})
    if bias_column is None or not labels:
        missing, beside = ("bias_column", "bias_labels") if bias_column is None else ("bias_labels", "bias_column")
        raise ValueError(
            f"`{missing}` is missing beside `{beside}`. Bias is measured by a column and by the labels that its values point "
            "to, such as `bias_column: pattern` with `bias_labels: {present: 3}`."
        )
    return bias_column, labels


def read_values(dataset: Any, column: str) -> list[str]:
    """Return the names (n,) of a column's values."""
    names = getattr(dataset.features.get(column), "names", None)
    return [names[v] if names and v is not None else name_of(v) for v in dataset.select_columns([column])[:][column]]


def name_of(value: Any) -> str:
    """Return a value as it is written in a recipe and on the command line."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return NONE
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mapping(labels: Mapping[Any, Any] | Sequence[str]) -> Mapping[Any, Any]:
    if isinstance(labels, Mapping):
        return labels
    message = f"`bias_labels={' '.join(labels)}` is no list of value=label. Write `present=3`, or in a recipe `{{present: 3}}`."
    if len(labels) == 1 and labels[0].lstrip().startswith("{"):  # the mapping of a recipe arrives as one word
        try:
            return dict(json.loads(labels[0]))
        except ValueError as error:
            raise ValueError(message) from error
    pairs = [word.rpartition("=") for word in labels]
    if not all(value and label for value, _, label in pairs):
        raise ValueError(message)
    return {value: label for value, _, label in pairs}


def bias_measures(predicted: Tensor, labels: Tensor, values: Sequence[str], pattern: Pattern) -> dict[str, Interval]:
    """Return what `metrics.functional.fairness` measures of answers and labels (n,), each figure with its interval.

    A figure that the rows do not define is left out.
    """
    y_hat, y, pointed = predicted.numpy(), labels.numpy(), pattern.pointed(values)
    right, with_pattern = y_hat == y, pointed >= 0
    against, aligned = with_pattern & (pointed != y), with_pattern & (pointed == y)
    out: dict[str, Interval] = {}
    if against.any():
        out["bias_following"] = intervals.share((y_hat == pointed)[against])
    without = _given_without(y_hat, y, pointed, sorted(set(pattern.labels.values())))
    if without is not None:
        out["bias_without"] = without
    for name, rows in (("accuracy_with_pattern", with_pattern), ("accuracy_without_pattern", ~with_pattern)):
        if rows.any():
            out[name] = intervals.share(right[rows])
    if against.any() and aligned.any():
        shares = [intervals.share(right[rows]) for rows in (aligned, against)]
        out["aligned_minus_conflicting"] = intervals.difference(*shares)
    groups = label_groups(values, y)
    out["worst_group_accuracy"] = intervals.worst_share(np.bincount(groups, weights=right), np.bincount(groups))
    if len(set(values)) > 1:
        out["cramers_v"] = intervals.cramers_v(y_hat, values)
    return out


def _given_without(y_hat: np.ndarray, y: np.ndarray, pointed: np.ndarray, labels: Sequence[int]) -> Interval | None:
    """Return P(ŷ = L | y ≠ L, nothing points to L) over the labels L that are pointed to; None if there are no such rows.

    A row counts once for each such label, but its answer is one of them at most. The limits are therefore those of the share
    of rows.
    """
    free = np.stack([(y != label) & (pointed != label) for label in labels])
    hit = (free & (y_hat == np.array(labels)[:, None])).any(0)
    rows = free.any(0)
    if not rows.any():
        return None
    value, low, high = (part * float(rows.sum() / free.sum()) for part in intervals.share(hit[rows]))
    return Interval(value, low, min(high, 1.0))


def _class_id(label: Any, processor: Processor) -> int:
    if isinstance(label, str) and label not in processor.label2id and label.isdecimal():
        label = int(label)
    try:
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"{label!r} is no label.")
        return processor.class_id(label, "bias_labels")
    except ValueError as error:
        known = ", ".join(list(processor.label2id)[:10])
        raise ValueError(f"`bias_labels` points to no class of the model: {error} Its classes are {known}.") from error

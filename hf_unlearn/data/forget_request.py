"""`ForgetRequest` names the rows to forget and splits a data set into them and the rows to retain."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.files import read_text
from ..utils.safe_text import shown
from .columns import arrow_column, as_list, class_ids, flat_column

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Split:
    """The two sides of a request.

    Attributes:
        forget: the rows to forget, a view of the data set that was split (an index mapping, no copy).
        retain: the other rows, a view as well.
        forget_indices: numbers of the rows to forget in that data set, ascending, (rows,).
        request: the request.
    """

    forget: datasets.Dataset
    retain: datasets.Dataset
    forget_indices: np.ndarray
    request: ForgetRequest


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """Names the rows to forget.

    A row must meet all criteria that are given. `fraction` then draws from the rows that meet them: `label=3, fraction=0.75` are
    three quarters of the threes. `a | b` forgets the rows of either request, `a & b` the rows of both.

    Args:
        label: one class or several, by name or id. If a number is the name of one class and the id of another, an int or
            `"id:3"` means the id, and `"name:3"` the name. Default None: rows of every class.
        column: name of a column whose `values` select rows, such as a user id. Default None.
        values: the values of `column` whose rows are forgotten. Default None.
        indices: numbers of the rows to forget. Default None.
        ids_file: a text file with one value of `column` on each line, or one row number if `column` is None. Default None.
        fraction: share of the rows to draw at random, in (0, 1). Default None: all of them.
        seed: seed of that draw. Default 0.
        predicate: a function that is true for rows to forget. It gets a row as a dict without image, audio, video and PDF
            columns. Default None.
        label_column: name of the column of class ids. Default `"label"`.
        union: requests of which a row must meet at least one; `|` sets it. Default ().
        intersection: requests of which a row must meet all; `&` sets it. Default ().

    Raises:
        ValueError: no criterion is given, or the arguments contradict each other.

    Example:
        ```python
        split = ForgetRequest(column="user_id", values=["u123"]).split(train)
        split.forget, split.retain
        ```
    """

    label: str | int | Sequence[str | int] | None = field(default=None, repr=False)  # Logs must not name values.
    column: str | None = None
    values: Sequence[Any] | None = field(default=None, repr=False)
    indices: Sequence[int] | None = field(default=None, repr=False)
    ids_file: str | Path | None = field(default=None, repr=False)
    fraction: float | None = None
    seed: int = 0
    predicate: Callable[[dict[str, Any]], bool] | None = None
    label_column: str = "label"
    union: tuple[ForgetRequest, ...] = ()
    intersection: tuple[ForgetRequest, ...] = ()

    def __post_init__(self) -> None:
        if self.values is not None and self.column is None:
            raise ValueError("`values` needs `column`: the column whose values select the rows.")
        if self.column is not None and self.values is None and self.ids_file is None:
            raise ValueError(f"`column={self.column!r}` needs `values` or `ids_file`: the values to forget.")
        criteria = (self.label, self.column, self.indices, self.ids_file, self.fraction, self.predicate)
        if all(c is None for c in criteria) and not self.union and not self.intersection:
            raise ValueError(
                "`ForgetRequest` names nothing to forget. Give `label`, `column` with `values`, `indices`, `ids_file`, "
                "`fraction` or `predicate`."
            )
        if isinstance(self.values, str):
            raise ValueError("`values` must be a list, got one string. Write `values=[...]`.")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ValueError(f"`fraction` must lie strictly between 0 and 1, got {self.fraction}.")

    def __or__(self, other: ForgetRequest) -> ForgetRequest:
        return ForgetRequest(union=(self, other))

    def __and__(self, other: ForgetRequest) -> ForgetRequest:
        return ForgetRequest(intersection=(self, other))

    def describe(self, classes: Sequence[str] = ()) -> str:
        """Return the request in words that reveal no row: counts instead of values, and no ids.

        Args:
            classes: the model's labels, in the order of their ids. Only these are named; other values of `label` are counted.
                Default (): no class is named.
        """
        parts = []
        if self.label is not None:
            parts.append(_class_words(as_list(self.label), classes))
        if self.column is not None:
            parts.append(f"rows selected by column '{shown(self.column)}'")
        if self.indices is not None or (self.ids_file is not None and self.column is None):
            parts.append("rows given by number")
        if self.predicate is not None:
            parts.append("rows selected by a predicate")
        if self.fraction is not None:
            parts.append(f"a random {self.fraction:.0%}")  # The seed would reveal the rows.
        for requests, word in ((self.union, " or "), (self.intersection, " and ")):
            parts += [f"({word.join(r.describe(classes) for r in requests)})"] if requests else []
        return ", ".join(parts)

    def split(self, dataset: datasets.Dataset) -> Split:
        """Split `dataset` into the rows to forget and the rows to retain.

        Raises:
            TypeError: `dataset` is a dictionary of splits or a stream.
            ValueError: a class, column, value or row does not exist, or the request selects no row or every row.
        """
        import datasets

        if isinstance(dataset, Mapping):
            raise TypeError(
                f"`dataset` is a dictionary of splits ({', '.join(dataset)}). Pass one: `dataset['train']`."
            )
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"`dataset` must be a `datasets.Dataset`, got {type(dataset).__name__}: rows of a stream cannot be "
                "selected by number. Load it without `streaming=True`, or build both sides with `dataset.filter`."
            )
        mask = self.mask(dataset)
        forget = np.flatnonzero(mask)
        self.check_selection(len(forget), len(dataset))
        return Split(dataset.select(forget), dataset.select(np.flatnonzero(~mask)), forget, self)

    def check_selection(self, selected: int, rows: int) -> None:
        """Raise ValueError if the request selects none of the `rows` or all of them."""
        if selected == 0:
            raise ValueError(f"The request ({self.describe()}) selects no row of the {rows} in `dataset`.")
        if selected == rows:
            raise ValueError(
                f"The request ({self.describe()}) selects all {rows} rows of `dataset`: nothing would be left to retain. "
                "To forget everything, train a new model."
            )

    def mask(self, dataset: datasets.Dataset) -> np.ndarray:
        """Return a boolean array (rows,) that is true for the rows to forget."""
        mask = np.ones(len(dataset), dtype=bool)
        if self.union:
            mask &= np.logical_or.reduce([r.mask(dataset) for r in self.union])
        for request in self.intersection:
            mask &= request.mask(dataset)
        if self.label is not None:
            mask &= self._label_mask(dataset, self.label)
        if self.column is not None:
            mask &= self._column_mask(dataset, self.column)
        elif self.ids_file is not None:
            mask &= _row_mask(read_ids(self.ids_file), len(dataset), "ids_file")
        if self.indices is not None:
            mask &= _row_mask(self.indices, len(dataset), "indices")
        if self.predicate is not None:
            mask &= _predicate_mask(dataset, self.predicate)
        if self.fraction is not None:
            candidates = np.flatnonzero(mask)
            drawn = np.random.default_rng(self.seed).permutation(len(candidates))
            mask = np.zeros(len(dataset), dtype=bool)
            mask[candidates[drawn[: round(self.fraction * len(candidates))]]] = True
        return mask

    def _label_mask(self, dataset: datasets.Dataset, label: str | int | Sequence[str | int]) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = class_ids(dataset, label, self.label_column)
        column = arrow_column(dataset, self.label_column, "label_column")
        return pc.is_in(column, value_set=pa.array(wanted, column.type)).to_numpy(zero_copy_only=False)

    def _column_mask(self, dataset: datasets.Dataset, name: str) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = flat_column(dataset, name, "column")
        argument = "ids_file" if self.values is None else "values"
        given = [] if self.values is None else list(self.values)
        given += [] if self.ids_file is None else read_ids(self.ids_file)
        try:
            values = pa.array(given).cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            raise ValueError(
                f"`{argument}` cannot be read as {column.type}, the type of column '{name}'. Give values of that type."
            ) from None  # The cause would name the value.
        known = pc.is_in(values, value_set=pc.unique(column))
        if not pc.all(known).as_py():
            missing = len(values) - pc.sum(known).as_py()
            raise ValueError(
                f"`{argument}`: {missing} of {len(values)} are in no row of column '{name}'. The rows of a misspelled value would "
                "stay in the model. Correct it or remove it."
            )
        return pc.is_in(column, value_set=values).to_numpy(zero_copy_only=False)


def read_ids(file: str | Path) -> list[str]:
    """Return the lines of an `ids_file`. Raises ValueError if there is no such file, or if it is empty or no text."""
    path = Path(file).expanduser()
    if not os.path.isfile(path):
        reason = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ValueError(f"`ids_file` {reason}: {path}. Give the path of a text file with one value on each line.")
    ids = [line.strip() for line in read_text(path, "ids_file").splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"`ids_file` is empty: {path}. Write one value on each line.")
    return ids


def _class_words(labels: Sequence[str | int], classes: Sequence[str]) -> str:
    """Name the labels that are among `classes`, by name or id, and count the others."""
    known: dict[str | int, str] = {key: name for i, name in enumerate(classes) for key in (i, str(i), f"id:{i}")}
    known |= {key: name for name in classes for key in (name, f"name:{name}")}
    named = [known[one] for one in labels if one in known]
    names, others = list(dict.fromkeys(map(shown, named))), len(labels) - len(named)
    if not names:
        return "one class" if others == 1 else f"{others} classes"
    more = f" and {others} more" if others else ""
    return f"{'class' if len(labels) == 1 else 'classes'} {', '.join(names)}{more}"


def _row_mask(rows: Sequence[int] | Sequence[str], n: int, argument: str) -> np.ndarray:
    given = [r.item() if hasattr(r, "item") else r for r in rows]
    if any(isinstance(r, bool) for r in given):
        raise ValueError(f"`{argument}` must hold row numbers, not true or false. Pass `np.flatnonzero(mask)`.")
    try:
        if any(isinstance(r, str) and not r.lstrip("+-").isdecimal() for r in given):  # Python reads `1_0` as 10
            raise ValueError
        index = np.asarray([min(int(r), n) for r in given], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"`{argument}` must hold row numbers. For other ids give `column` too.") from None
    if any(isinstance(r, float) and not r.is_integer() for r in given):
        raise ValueError(f"`{argument}` must hold whole row numbers.")
    outside = int(((index < 0) | (index >= n)).sum())
    if outside:
        raise ValueError(f"`{argument}`: {outside} of {len(index)} row numbers lie outside 0..{n - 1}.")
    mask = np.zeros(n, dtype=bool)
    mask[index] = True
    return mask


def _predicate_mask(dataset: datasets.Dataset, predicate: Callable[[dict[str, Any]], bool]) -> np.ndarray:
    plain = [c for c, f in dataset.features.items() if type(f).__name__ not in ("Image", "Audio", "Video", "Pdf")]
    batches = dataset.select_columns(plain).with_format("arrow").iter(batch_size=10_000)
    rows = (row for batch in batches for row in batch.to_pylist())
    return np.fromiter((bool(predicate(row)) for row in rows), bool, count=len(dataset))

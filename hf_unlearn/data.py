"""From a request to two data sets: which rows to forget, and which to keep.

A `ForgetRequest` names the rows, and `split` turns it into two views of the data set (index mappings, no copies).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class Split:
    """The two sides of a request.

    `forget` and `retain` are views of the data set that was split; `forget_indices` are row numbers in it, ascending.
    """

    forget: datasets.Dataset
    retain: datasets.Dataset
    forget_indices: np.ndarray
    request: ForgetRequest


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """Names the rows to forget.

    Criteria that are given together must all hold, and `fraction` then draws from the rows that are left
    (`label=3, fraction=0.75`: three quarters of the threes). `a | b` forgets the rows of either request, `a & b` of both.

    Args:
        label: one class or several, by name or id.
        column: a column whose `values` select rows, such as a user id.
        values: the values of `column` to forget.
        indices: row numbers.
        ids_file: a text file with one value of `column` (or one row number, without `column`) per line.
        fraction: share of the rows to draw, in (0, 1).
        seed: seed of that draw.
        predicate: a function of a row (a dict without image or audio columns) that is true for rows to forget.
        label_column: the column of class ids.

    Example:
        ```python
        split = ForgetRequest(column="user_id", values=["u123"]).split(train)
        split.forget, split.retain
        ```
    """

    label: str | int | Sequence[str | int] | None = None
    column: str | None = None
    values: Sequence[Any] | None = None
    indices: Sequence[int] | None = None
    ids_file: str | Path | None = None
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
            raise ValueError(
                f"`values` must be a list, got the string {self.values!r}. Write `values=[{self.values!r}]`."
            )
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ValueError(f"`fraction` must lie strictly between 0 and 1, got {self.fraction}.")

    def __or__(self, other: ForgetRequest) -> ForgetRequest:
        return ForgetRequest(union=(self, other))

    def __and__(self, other: ForgetRequest) -> ForgetRequest:
        return ForgetRequest(intersection=(self, other))

    def describe(self) -> str:
        """What was asked, in words that reveal no row: counts instead of values, no ids."""
        parts = []
        if self.label is not None:
            labels = [self.label] if isinstance(self.label, str | int) else list(self.label)
            parts.append(f"{'class' if len(labels) == 1 else 'classes'} {', '.join(map(str, labels))}")
        if self.column is not None:
            parts.append(f"rows selected by column '{self.column}'")
        if self.indices is not None or (self.ids_file is not None and self.column is None):
            parts.append("rows given by number")
        if self.predicate is not None:
            parts.append("rows selected by a predicate")
        if self.fraction is not None:
            parts.append(f"a random {self.fraction:.0%} (seed {self.seed})")
        parts += [f"({' or '.join(r.describe() for r in self.union)})"] if self.union else []
        parts += [f"({' and '.join(r.describe() for r in self.intersection)})"] if self.intersection else []
        return ", ".join(parts)

    def split(self, dataset: datasets.Dataset) -> Split:
        """Split `dataset` into forget and retain views.

        Raises:
            TypeError: `dataset` is a dictionary of splits or a stream.
            ValueError: a class, column, value or row does not exist, nothing is selected, or everything is.
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
        if len(forget) == 0:
            raise ValueError(f"The request ({self.describe()}) selects no row of the {len(dataset)} in `dataset`.")
        if len(forget) == len(dataset):
            raise ValueError(
                f"The request ({self.describe()}) selects all {len(dataset)} rows of `dataset`: nothing would be left to "
                "keep. Forgetting everything means training a new model."
            )
        return Split(dataset.select(forget), dataset.select(np.flatnonzero(~mask)), forget, self)

    def mask(self, dataset: datasets.Dataset) -> np.ndarray:
        """Boolean array, one entry per row of `dataset`: true for rows to forget."""
        mask = np.ones(len(dataset), dtype=bool)
        if self.union:
            mask &= np.logical_or.reduce([r.mask(dataset) for r in self.union])
        for request in self.intersection:
            mask &= request.mask(dataset)
        if self.label is not None:
            mask &= np.isin(read_labels(dataset, self.label_column), class_ids(dataset, self.label, self.label_column))
        if self.column is not None:
            mask &= self._column_mask(dataset)
        elif self.ids_file is not None:
            mask &= _row_mask(self._read_ids(), len(dataset), "ids_file")
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

    def _read_ids(self) -> list[str]:
        assert self.ids_file is not None
        path = Path(self.ids_file)
        if not path.is_file():
            raise ValueError(f"`ids_file` does not exist: {path}.")
        ids = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if not ids:
            raise ValueError(f"`ids_file` is empty: {path}.")
        return ids

    def _column_mask(self, dataset: datasets.Dataset) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.column is not None
        column = _arrow_column(dataset, self.column, "column")
        given = [*(self.values or ()), *(self._read_ids() if self.ids_file is not None else ())]
        try:
            values = pa.array(given).cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise ValueError(
                f"`values` cannot be read as {column.type}, the type of column '{self.column}'. Give values of that type."
            ) from error
        known = pc.is_in(values, value_set=pc.unique(column))
        if not pc.all(known).as_py():
            missing = len(values) - pc.sum(known).as_py()
            raise ValueError(
                f"`values`: {missing} of {len(values)} are in no row of column '{self.column}'. A misspelt id would "
                "leave its rows in the model; remove it or correct it."
            )
        return pc.is_in(column, value_set=values).to_numpy(zero_copy_only=False)


def _arrow_column(dataset: datasets.Dataset, name: str, argument: str) -> Any:
    """One column as an Arrow array, through the data set's index mapping, nothing decoded."""
    if name not in dataset.column_names:
        raise ValueError(
            f"`{argument}={name!r}` is not a column of the data set; it has {', '.join(dataset.column_names)}."
        )
    return dataset.select_columns([name]).with_format("arrow")[:].column(name).combine_chunks()


def find_label_column(dataset: Any, preferred: str | None = None) -> str | None:
    """The label column of `dataset`, or None."""
    names: Any = getattr(dataset, "column_names", None) or next(iter(dataset), {})
    return next((c for c in (preferred, *LABEL_COLUMNS) if c in names), None)


def read_labels(dataset: datasets.Dataset, label_column: str = "label") -> np.ndarray:
    """All class ids of `dataset`, shape (rows,)."""
    column = _arrow_column(dataset, label_column, "label_column")
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
    values = _arrow_column(dataset, column, argument)
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


def class_ids(
    dataset: datasets.Dataset, label: str | int | Sequence[str | int], label_column: str = "label"
) -> list[Any]:
    """Resolve class names or ids to the values stored in `label_column`; unknown ones raise ValueError."""
    feature = dataset.features.get(label_column)
    names = list(getattr(feature, "names", None) or [])
    present = None
    ids: list[Any] = []
    for one in [label] if isinstance(label, str | int) else label:
        if one in names:
            ids.append(names.index(one))
            continue
        if present is None:
            present = set(np.unique(read_labels(dataset, label_column)).tolist())
        value: Any = int(one) if isinstance(one, str) and one.lstrip("-").isdigit() and one not in present else one
        if value not in present:
            known = ", ".join(names) if names else ", ".join(map(str, sorted(present)))
            raise ValueError(f"`label={one!r}` is no class of the data set. It has: {known}.")
        ids.append(value)
    return ids


def _row_mask(rows: Sequence[int] | Sequence[str], n: int, argument: str) -> np.ndarray:
    try:
        index = np.asarray([int(r) for r in rows], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"`{argument}` must hold row numbers: {error}. For other ids give `column` too.") from error
    if len(index) and (index.min() < 0 or index.max() >= n):
        raise ValueError(
            f"`{argument}` holds row {index.max() if index.max() >= n else index.min()}, outside 0..{n - 1}."
        )
    mask = np.zeros(n, dtype=bool)
    mask[index] = True
    return mask


def _predicate_mask(dataset: datasets.Dataset, predicate: Callable[[dict[str, Any]], bool]) -> np.ndarray:
    plain = [c for c, f in dataset.features.items() if type(f).__name__ not in ("Image", "Audio", "Video", "Pdf")]
    batches = dataset.select_columns(plain).with_format("arrow").iter(batch_size=10_000)
    return np.fromiter(
        (bool(predicate(row)) for batch in batches for row in batch.to_pylist()), bool, count=len(dataset)
    )


def check_overlap(forget: datasets.Dataset, retain: datasets.Dataset, limit: int = 200_000) -> None:
    """Raise ValueError where rows of the forget set are in the retain set as well.

    Rows are compared by content digest. Real data has honest duplicates, so a few common rows are a warning (a copy that
    stays in the retain set keeps its influence); half of the forget set or more is an error. At most `limit` retain
    rows are read.
    """
    shared = sorted(set(forget.column_names) & set(retain.column_names))
    if not shared:
        return
    forget_digests = list(_row_digests(forget.select_columns(shared)))
    kept = retain.select(range(min(len(retain), limit))) if len(retain) > limit else retain
    retain_digests = set(_row_digests(kept.select_columns(shared)))
    common = sum(d in retain_digests for d in forget_digests)
    if common >= 0.5 * len(forget_digests):
        raise ValueError(
            f"`forget_dataset` and `retain_dataset` overlap: {common} of {len(forget_digests)} rows to forget are also "
            "retained. Build both with `ForgetRequest(...).split(dataset)`."
        )
    if common:
        logger.warning(
            "%d of %d rows to forget have an identical copy in `retain_dataset`; what those copies teach will stay.",
            common,
            len(forget_digests),
        )


def _row_digests(dataset: datasets.Dataset) -> Iterator[bytes]:
    for batch in dataset.with_format("arrow").iter(batch_size=1_000):
        for row in batch.to_pylist():
            yield hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=16).digest()

"""Errors that name a data set, a row and a column, and rows that are read so that a damaged one is named."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..utils.loading_errors import without_values


class CellError(ValueError):
    """A value of a row cannot become an input of the model. The message begins with its column."""

    def __init__(self, why: str, column: str | None = None) -> None:
        self.column = column
        super().__init__(f"column `{column}`: {why}" if column else why)


def in_row(argument: str, index: int, error: Exception) -> ValueError:
    """Return `error` as a ValueError that says where: "`argument`, row 17, column `text`: …"."""
    said = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__} {error}".strip()
    return ValueError(f"`{argument}`, row {index}{',' if getattr(error, 'column', None) else ':'} {said}")


@contextmanager
def naming_row(argument: str, index: int) -> Iterator[None]:
    """Turn any exception inside, except lack of memory, into a ValueError that names the row."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise in_row(argument, index, error) from error


def check_kind(data: Any, argument: str) -> None:
    """Raise ValueError, naming `argument`, if `data` is a collection of data sets, or something else that has no rows."""
    pass_it = f"Pass rows to `{argument}`"
    if isinstance(data, Mapping):
        if any(hasattr(v, "column_names") for v in data.values()):
            names = ", ".join(map(str, data))
            raise ValueError(
                f"`{argument}` is a dictionary of splits ({names}), and one data set is needed. Pass one split, such as "
                f"`dataset[{next(iter(data))!r}]`."
            )
        raise ValueError(f"`{argument}` is a dictionary. {pass_it}: `datasets.Dataset.from_dict(columns)`.")
    if isinstance(data, str | Path):
        raise ValueError(f"`{argument}` is a name. {pass_it}: `datasets.load_dataset(name, split=...)`.")
    if type(data).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow"):
        maker = {"pandas": "from_pandas(frame)", "polars": "from_polars(frame)"}
        how = maker.get(type(data).__module__.partition(".")[0], "from_list(table.to_pylist())")
        raise ValueError(f"`{argument}` is a {type(data).__name__}. {pass_it}: `datasets.Dataset.{how}`.")
    if hasattr(data, "batch_sampler"):
        raise ValueError(f"`{argument}` is a data loader, which gives batches. {pass_it}: `loader.dataset`.")
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise ValueError(f"`{argument}` is a {type(data).__name__}. {pass_it}, such as a `datasets.Dataset`.")


def first_row(data: Any, argument: str) -> Mapping[str, Any]:
    """Return the first row of `data`.

    Raises:
        ValueError: `data` is no data set, it is empty, the row cannot be read, or it is no dictionary.
    """
    check_kind(data, argument)
    try:
        row = next(iter(data), None)
    except Exception as error:
        raise unreadable(data, 0, argument, error) from error
    if row is None:
        raise ValueError(f"`{argument}` is empty.")
    try:
        check_row(row)
    except ValueError as error:
        raise in_row(argument, 0, error) from error
    return row


def check_row(row: Any) -> None:
    """Raise ValueError if a row is no dictionary from columns to values."""
    if isinstance(row, Mapping):
        return
    how = "Name its columns: `[{'image': picture, 'label': label} for picture, label in data]`, and write `pixel_values` for "
    how += "`image` if the pictures are tensors that the model reads as they are."
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 2:
        how = "A row must name its columns, as in `{'text': ..., 'label': ...}`."
    raise ValueError(f"it is a {type(row).__name__}, and a dictionary is needed. {how}")


def read_rows(rows: Any, indices: list[int]) -> Sequence[Any]:
    """Read several rows, in one go if the data set can."""
    return rows.__getitems__(indices) if hasattr(rows, "__getitems__") else [rows[i] for i in indices]


def read_named(rows: Any, indices: list[int], argument: str) -> Sequence[Any]:
    """Return several rows, read in one go. A row that cannot be read is named in a ValueError."""
    try:
        return read_rows(rows, indices)
    except MemoryError:
        raise
    except Exception:
        for index in indices:
            try:
                read_rows(rows, [index])
            except Exception as error:
                raise unreadable(rows, index, argument, error) from error
        raise


def read_stream(rows: Any, argument: str, stored: Any = None) -> Iterator[Any]:
    """Yield the rows of a stream. One that cannot be read is named in a ValueError by its place in the order of the stream.

    Args:
        stored: the stream that `rows` iterates over, to look for the damaged column. Default None: `rows` itself.
    """
    index, iterator = 0, iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except MemoryError:
            raise
        except Exception as error:
            raise unreadable(rows if stored is None else stored, index, argument, error) from error
        yield row
        index += 1


def unreadable(rows: Any, index: int, argument: str, error: Exception) -> ValueError:
    """Return the error for a row that could not be read, with the column and the file name of its picture if there is one."""
    column, path = _damaged(rows, index)
    said = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__} {error}".strip()
    file = f" (file `{Path(path).name}`)" if path else ""
    return in_row(
        argument, index, CellError(f"it cannot be read: {without_values(said)}. Repair or drop it{file}.", column)
    )


def _damaged(rows: Any, index: int) -> tuple[str | None, str | None]:
    """Return the first column of a row that cannot be read by itself, and the path of its picture or sound. None: not known."""
    while hasattr(rows, "chosen"):  # `DrawnRows`
        rows, index = rows.dataset, int(rows.chosen[index])
    features: Any = getattr(rows, "features", None) if hasattr(rows, "select_columns") else None
    for name in sorted(features or (), key=lambda n: not hasattr(features[n], "decode")):  # pictures and sounds first
        try:
            _cell(rows.with_format(None).select_columns([name]), index)
        except Exception:
            path = None
            with suppress(Exception):  # It is unreadable also undecoded, or it is no picture and no sound.
                path = _cell(undecoded(rows).select_columns([name]), index)[name]["path"]
            return name, path
    return None, None


def _cell(rows: Any, index: int) -> Any:
    return rows[index] if hasattr(rows, "__len__") else next(islice(rows, index, None))


def undecoded(rows: Any) -> Any:
    """Return a `datasets.Dataset` without its format or transform, whose pictures and sounds stay undecoded.

    Anything else is returned as it is.
    """
    if not hasattr(rows, "cast_column") or not hasattr(rows, "with_format"):
        return rows
    rows = rows.with_format(None)
    for name, feature in (rows.features or {}).items():
        if getattr(feature, "decode", False):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows

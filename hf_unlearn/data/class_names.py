"""Labels in the numbers of the model's head: classes that a data set names are matched with the head by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .columns import arrow_column, as_list, other_kind

if TYPE_CHECKING:
    import datasets

QUOTED = 5  # class names that an error quotes


def fold(name: str) -> str:
    """Return `name` without what spellings of one class differ in: case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def is_numbering(names: Iterable[tuple[int, str]]) -> bool:
    """True if every name only repeats its number, as `LABEL_0` or `0`, so that names say nothing about the classes."""
    return all(fold(name) in (str(i), f"label {i}", f"class {i}") for i, name in names)


def numbers_of_names(names: Sequence[str], label2id: Mapping[str, int]) -> list[int | None]:
    """Return the head's number of each name, None for a name that the head lacks.

    An exact name goes first. Other spellings (`fold`) count where they mean one name only, on both sides.
    """
    spellings, ours = Counter(map(fold, names)), Counter(map(fold, label2id))
    folded = {fold(name): number for name, number in label2id.items() if ours[fold(name)] == 1}
    return [label2id[n] if n in label2id else folded.get(fold(n)) if spellings[fold(n)] == 1 else None for n in names]


def align_labels(
    dataset: Any, column: str, label2id: Mapping[str, int], classes: int, argument: str
) -> tuple[Any, str | None]:
    """Return `dataset` with the head's numbers in its label `column`, and a sentence about what differed or None.

    The same object comes back if nothing differs, if the column holds numbers without names, or if the head or the data set
    has no names but numbers (`is_numbering`). Only the label column is copied. Of a stream, rows are renumbered as they come.

    Args:
        label2id: the head's names and their numbers.
        classes: the size of the head.
        argument: the name of the argument that holds `dataset`, for errors.

    Raises:
        ValueError: rows are of classes that the head lacks, or the column holds neither numbers nor names of classes.
    """
    feature = (getattr(dataset, "features", None) or {}).get(column)
    if feature is None:
        return dataset, None
    names = getattr(feature, "names", None)
    stored = hasattr(dataset, "data")
    if names is None:
        kind = getattr(feature, "dtype", "") if type(feature).__name__ == "Value" else type(feature).__name__
        if kind in ("string", "large_string"):
            return (_number_texts(dataset, column, label2id, classes, argument) if stored else dataset), None
        if not kind.startswith(("int", "uint", "float", "bool", "null")):
            where = f", row {other_kind(dataset, column)}" if kind == "Json" and stored else ""
            raise ValueError(f"`{argument}`{where}: {describe_wrong_label(column, kind)}")
        return dataset, None
    head = is_numbering((i, n) for n, i in label2id.items())
    numbers = numbers_of_names(names, label2id)
    if None in numbers and (head or is_numbering(enumerate(names))):
        if len(names) == classes:
            return dataset, None
        named = "the model's `id2label` gives numbers only" if head else "the data set gives numbers only"
        return dataset, (
            f"column '{column}' has {len(names)} classes and the model's head {classes}, and {named}, so classes cannot be "
            "matched by name: the numbers stay as they are. If the data set lacks one of the model's classes, its numbers may be "
            "shifted. Give both the same class names: `model.config.id2label` and `model.config.label2id`."
        )
    if stored and None in numbers:
        counts = Counter(arrow_column(dataset, column, "label_column").to_pylist())
        lacking = {n: counts[i] for i, n in enumerate(names) if numbers[i] is None and counts[i]}
        _refuse_names(lacking, column, label2id, argument)
    if all(number in (None, i) for i, number in enumerate(numbers)):
        return dataset, None
    moved = next(i for i, number in enumerate(numbers) if number not in (None, i))
    said = (
        f"column '{column}' and the model number the classes differently: '{names[moved]}' is {moved} there and "
        f"{numbers[moved]} in the model's `label2id`. Labels are matched by name."
    )
    if stored:
        lookup = {i: -1 if number is None else number for i, number in enumerate(numbers)}
        return _renumbered(dataset, column, lookup, label2id), said

    def renumber(value: int | None) -> dict[str, int | None]:
        if value is not None and 0 <= value < len(numbers) and numbers[value] is None:
            _refuse_names({names[value]: 1}, column, label2id, argument)
        return {column: numbers[value] if value is not None and 0 <= value < len(numbers) else value}

    return dataset.map(
        renumber, input_columns=[column], features=_with_head_names(dataset.features, column, label2id)
    ), said


def describe_wrong_label(column: str, kind: str) -> str:
    """Say why a column of another type than numbers and texts, such as `List` or `Image`, holds no labels."""
    if kind == "Json":
        return (
            f"column '{column}' holds values of several kinds, such as numbers and texts. Give all rows a class number, or all a class "
            "name."
        )
    if not kind.lower().startswith(("list", "largelist", "sequence", "array")):
        return f"column '{column}' holds {kind}, and a label is a class number or a class name. Name another `label_column`."
    return (
        f"column '{column}' holds lists, so rows have several labels (multi-label). Unlearning here needs one class for each row, "
        "as with `problem_type='single_label_classification'`. Make one-hot lists numbers first: "
        f"`dataset.map(lambda r: {{'{column}': r['{column}'].index(1)}})`."
    )


def names_of_classes(dataset: datasets.Dataset, column: str) -> list[str]:
    """Return the names of the classes in `column` for a model that will be trained on them, in the order of their numbers.

    Raises:
        ValueError: a row has no label, or numbers without names are not 0, 1, 2 and so on.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = arrow_column(dataset, column, "label_column")
    if pa.types.is_nested(values.type):
        raise ValueError(f"`label_column`: {describe_wrong_label(column, 'list')}")
    present = pc.unique(values).to_pylist()
    names = getattr(dataset.features[column], "names", None)
    if any(v is None or v != v or (names and v < 0) for v in present):
        raise ValueError(
            f"`label_column={column!r}` is empty in some rows, so no original can be trained. Drop those rows."
        )
    texts = all(isinstance(v, str) for v in present)
    if not names and not texts and sorted(present) != list(range(len(present))):
        raise ValueError(
            f"`label_column={column!r}` holds {len(present)} different numbers that are not 0 to {len(present) - 1}, so they are no "
            f"class numbers. Number the classes from 0, or give them names: `dataset.class_encode_column({column!r})`."
        )
    return list(names or map(str, sorted(present)))


def check_numbers(
    given: str | int | Sequence[str | int] | None, dataset: Any, column: str, label2id: Mapping[str, int], argument: str
) -> None:
    """Raise ValueError if a class in `given`, the value of `argument`, is a number that means another class to the model."""
    names = getattr((getattr(dataset, "features", None) or {}).get(column), "names", None) or []
    numbers = numbers_of_names(names, label2id)
    ours = {number: name for name, number in label2id.items()}
    for one in as_list(given or []):
        digits = str(one).removeprefix("id:")
        if str(one).removeprefix("name:") in names or not digits.isdecimal() or int(digits) >= len(names):
            continue  # a name, or no class at all, which the request refuses
        number = int(digits)
        if numbers[number] not in (None, number):
            other = f"'{ours[number]}'" if number in ours else "no class"
            raise ValueError(
                f"`{argument}={one!r}` is '{names[number]}' in the data set and {other} in the model. Write the name instead of the "
                "number."
            )


def _number_texts(
    dataset: datasets.Dataset, column: str, label2id: Mapping[str, int], classes: int, argument: str
) -> datasets.Dataset:
    """Return a data set whose labels are names with the head's numbers in their place."""
    counts = Counter(arrow_column(dataset, column, "label_column").to_pylist())
    counts.pop(None, None)
    found = numbers_of_names(list(counts), label2id)
    lookup = {
        text: int(text) if number is None and text.isdecimal() and int(text) < classes else number
        for text, number in zip(counts, found, strict=True)
    }
    strange = all(number is None for number in lookup.values())
    # These may be texts or names of people: count them.
    if counts and (strange or len(counts) > max(classes, min(2 * classes, len(dataset) // 2))):
        none = ", none of which is a class of the model" if strange else ""
        ours = ", ".join(list(label2id)[: 2 * QUOTED]) + (", …" if len(label2id) > 2 * QUOTED else "")
        raise ValueError(
            f"`{argument}`: column '{column}' holds {len(counts)} different texts in {len(dataset)} rows{none}, and the model has "
            f"{classes} classes: {ours}. Name the column of class names in `label_column`, or give both the same names, such as by "
            "`label2id` and `id2label` in the model's configuration."
        )
    _refuse_names({text: counts[text] for text, number in lookup.items() if number is None}, column, label2id, argument)
    return _renumbered(dataset, column, lookup, label2id)


def _refuse_names(lacking: Mapping[str, int], column: str, label2id: Mapping[str, int], argument: str) -> None:
    if not lacking:
        return
    shown = ", ".join(
        f"{name!r} ({rows} row{'s' if rows > 1 else ''})" for name, rows in list(lacking.items())[:QUOTED]
    )
    more = f" and {len(lacking) - QUOTED} more" if len(lacking) > QUOTED else ""
    ours = ", ".join(list(label2id)[: 2 * QUOTED]) + (", …" if len(label2id) > 2 * QUOTED else "")
    raise ValueError(
        f"`{argument}`: column '{column}' has classes that are not in the model's `label2id`: {shown}{more}. The model has {ours}. "
        "Drop these rows, or give both the same names: rename them in the data set, or set `label2id` and `id2label` in the "
        f"model's configuration. If the numbers are right, drop the names: `dataset.cast_column('{column}', Value('int64'))`."
    )


def _with_head_names(features: Any, column: str, label2id: Mapping[str, int]) -> Any:
    """Return `features` with the head's names in `column`."""
    import datasets

    ours = {number: name for name, number in label2id.items()}
    names = [ours.get(i, f"LABEL_{i}") for i in range(max(ours) + 1)]
    return datasets.Features({**features, column: datasets.ClassLabel(names=names)})


def _renumbered(
    dataset: datasets.Dataset, column: str, lookup: Mapping[Any, int | None], label2id: Mapping[str, int]
) -> datasets.Dataset:
    """Return `dataset` with `lookup[value]` for each value of `column`. Values that are not in it stay (−1 is a missing label).

    Rows, index mapping and format are those of `dataset`, and no other column is read.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    features = _with_head_names(dataset.features, column, label2id)
    encoded = (
        dataset.data.column(column).combine_chunks().dictionary_encode()
    )  # all rows, also those that a view leaves out
    values = encoded.dictionary.to_pylist()
    numbers = [lookup.get(v, v if isinstance(v, int) else -1) for v in values]
    labels = pc.take(pa.array(numbers, pa.int64()), encoded.indices)
    added = datasets.table.InMemoryTable(pa.table({column: labels}))
    kept = [name for name in dataset.column_names if name != column]
    parts = [dataset.data.select(kept), added] if kept else [added]
    info = dataset.info.copy()
    info.features = features
    out = datasets.Dataset(
        datasets.table.concat_tables(parts, axis=1).select(dataset.column_names),
        info=info,
        split=dataset.split,
        indices_table=dataset._indices,
        fingerprint=datasets.fingerprint.Hasher.hash((dataset._fingerprint, column, sorted(lookup.items(), key=str))),
    )
    out.set_format(**dataset.format)
    return out

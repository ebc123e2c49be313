"""Bias: how much a classifier goes by an attribute that has nothing to do with the label.

Every function reads class ids, predicted and true, and the attribute's value of each sample, as arrays, tensors or lists
(n,). None of the values is good or bad by itself: what counts is the distance to the retrained model's. They all raise
ValueError on empty or unequal columns, missing values, and sets that do not hold the samples a measure compares.

Rates come from scikit-learn and SciPy. Fairlearn has the binary parities only and gives a group without positives the rate
0, which reads as a gap of 1 where nothing was measured; the tests compare with it where both are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .checked_arrays import class_ids, group_codes, same_length, scalars


def bias_labels(attributes: Any, mapping: Mapping[Any, int | None] | None = None) -> np.ndarray:
    """The label y_b (n,) that each sample's attribute points to, −1 where it points to none.

    Args:
        attributes: values of the attribute, or, without `mapping`, the labels themselves, None or −1 for none.
        mapping: value -> label, None or −1 for none.

    Raises:
        ValueError: a value that `mapping` lacks, or something that is no label.
    """
    listed = scalars(attributes)
    argument = "attributes" if mapping is None else "mapping"
    if mapping is not None:
        unknown = sorted({repr(v) for v in listed if v not in mapping})
        if unknown:
            raise ValueError(
                f"`mapping` lacks {', '.join(unknown[:5])}, found in `attributes`. Add each with the label it points to, or "
                "with None where it points to none."
            )
        listed = [mapping[v] for v in listed]
    labels = [-1 if v is None else v for v in listed]
    wrong = next((v for v in labels if not isinstance(v, int | np.integer) or v < -1), None)
    if wrong is not None:
        raise ValueError(
            f"`{argument}` holds {wrong!r} where a label is needed: a class id, or None or -1 for none. For other values "
            "pass `mapping`, from value to label."
        )
    return np.array(labels, dtype=np.int64)


def bias_following(
    predictions: Any, labels: Any, attributes: Any, mapping: Mapping[Any, int | None] | None = None
) -> float:
    """P(ŷ = y_b | y ≠ y_b), y_b the label that the attribute points to; in [0, 1]. Arguments as in `bias_labels`."""
    predicted, true = _classes(predictions, labels, attributes)
    pointed = bias_labels(attributes, mapping)
    against = (pointed >= 0) & (pointed != true)
    if not against.any():
        raise ValueError(
            "`attributes` never points away from the label: without bias-conflicting samples nothing tells the two apart. "
            "Measure on a set where attribute and label are independent."
        )
    return float((predicted == pointed)[against].mean())


def aligned_conflicting_accuracy(
    predictions: Any, labels: Any, attributes: Any, mapping: Mapping[Any, int | None] | None = None
) -> tuple[float, float]:
    """Accuracy where the attribute points to the label, and where it points to another; each in [0, 1]."""
    predicted, true = _classes(predictions, labels, attributes)
    pointed = bias_labels(attributes, mapping)
    right = predicted == true
    parts = {"aligned": right[pointed == true], "conflicting": right[(pointed >= 0) & (pointed != true)]}
    for name, part in parts.items():
        if not len(part):
            raise ValueError(
                f"`attributes` leaves no bias-{name} sample. Measure on a set where attribute and label are independent."
            )
    return float(parts["aligned"].mean()), float(parts["conflicting"].mean())


def cramers_v(predictions: Any, attributes: Any) -> float:
    """Cramér's V between prediction and attribute, in [0, 1]; 0 where the prediction never changes."""
    from scipy.stats.contingency import association, crosstab

    predicted, codes, _ = _grouped(predictions, attributes)
    table = crosstab(codes, predicted).count
    return float(association(table, method="cramer")) if table.shape[1] > 1 else 0.0


def group_accuracies(predictions: Any, labels: Any, attributes: Any) -> dict[Any, float]:
    """Accuracy in [0, 1] of each value of the attribute."""
    predicted, true = _classes(predictions, labels, attributes)
    names, codes = group_codes(attributes, "attributes")
    right = np.bincount(codes, weights=predicted == true) / np.bincount(codes)
    return dict(zip(names, right.tolist(), strict=True))


def label_groups(attributes: Any, labels: np.ndarray) -> np.ndarray:
    """The group (n,) of each sample among those that attribute × label form, numbered from 0."""
    _, codes = group_codes(attributes, "attributes")
    return np.unique(codes * (labels.max() + 1) + labels, return_inverse=True)[1]


def worst_group_accuracy(predictions: Any, labels: Any, attributes: Any, by_label: bool = True) -> tuple[float, int]:
    """Lowest accuracy of any group, in [0, 1], and that group's samples; groups without samples do not count.

    Args:
        by_label: groups are attribute × label, else the attribute alone.
    """
    predicted, true = _classes(predictions, labels, attributes)
    codes = label_groups(attributes, true) if by_label else group_codes(attributes, "attributes")[1]
    sizes = np.bincount(codes)
    accuracies = np.bincount(codes, weights=predicted == true) / sizes
    worst = accuracies.argmin()
    return float(accuracies[worst]), int(sizes[worst])


def demographic_parity_gap(predictions: Any, attributes: Any) -> float:
    """max over classes c of max_a P(ŷ=c|a) − min_a P(ŷ=c|a), in [0, 1]; for two classes Fairlearn's difference."""
    from scipy.stats.contingency import crosstab

    predicted, codes, _ = _grouped(predictions, attributes)
    table = crosstab(codes, predicted).count
    rates = table / table.sum(1, keepdims=True)
    return float((rates.max(0) - rates.min(0)).max())


def equalised_odds_gap(predictions: Any, labels: Any, attributes: Any) -> tuple[float, float]:
    """Greatest gap between groups in P(ŷ=c|y=k), over all k and c, and over c = k alone (equal opportunity); in [0, 1].

    A label counts where two groups or more hold samples of it. For two classes the first is Fairlearn's difference.
    """
    from sklearn.metrics import confusion_matrix

    predicted, true = _classes(predictions, labels, attributes)
    predicted, codes, names = _grouped(predicted, attributes)
    classes = np.union1d(predicted, true)
    counts = np.stack(
        [confusion_matrix(true[codes == a], predicted[codes == a], labels=classes) for a in range(len(names))]
    )
    totals = counts.sum(-1)
    shared = (totals > 0).sum(0) >= 2
    if not shared.any():
        raise ValueError(
            "`attributes` shares no label between two of its values: there is nothing to compare. Measure on a set where "
            "attribute and label are independent."
        )
    rates = np.where(totals[..., None] > 0, counts / totals[..., None].clip(1), np.nan)[:, shared]
    gaps = np.nanmax(rates, axis=0) - np.nanmin(rates, axis=0)
    return float(gaps.max()), float(gaps[np.arange(len(gaps)), np.flatnonzero(shared)].max())


def false_positive_rates(
    predictions: Any, labels: Any, attributes: Any, positive: int = 1
) -> tuple[dict[Any, float], float]:
    """P(ŷ = positive | y ≠ positive) of each value of the attribute, and over all samples; each in [0, 1]."""
    predicted, true = _classes(predictions, labels, attributes)
    names, codes = group_codes(attributes, "attributes")
    negative = true != positive
    sizes = np.bincount(codes[negative], minlength=len(names))
    empty = [repr(name) for name, size in zip(names, sizes, strict=True) if size == 0]
    if empty:
        raise ValueError(
            f"`attributes` has no sample of another class than `positive={positive}` where its value is {', '.join(empty[:5])}:"
            " no false positive rate is defined there. Drop those rows, or name another `positive` class."
        )
    rates = np.bincount(codes[negative], weights=(predicted == positive)[negative], minlength=len(names)) / sizes
    return dict(zip(names, rates.tolist(), strict=True)), float((predicted == positive)[negative].mean())


def _classes(predictions: Any, labels: Any, attributes: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = class_ids(predictions, "predictions"), class_ids(labels, "references")
    same_length(predictions=predicted, references=true, attributes=attributes)
    return predicted, true


def _grouped(predictions: Any, attributes: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Predicted classes (n,), groups (n,) and the groups' names, two at least."""
    predicted = class_ids(predictions, "predictions")
    same_length(predictions=predicted, attributes=attributes)
    names, codes = group_codes(attributes, "attributes")
    if len(names) < 2:
        raise ValueError(
            f"`attributes` is {names[0]!r} in every sample: there are no groups to compare. Add the others."
        )
    return predicted, codes, names

"""Bias: how much a classifier goes by an attribute that has nothing to do with the label.

Every function takes one entry per sample, as arrays, tensors or lists (n,): `predictions` are predicted class ids,
`labels` true class ids, and `attributes` values of the attribute, of any kind. They all raise ValueError if a column is
empty, has missing values or another length, or if the samples that a measure compares are missing.

No value is good or bad by itself. The distance to the value of the retrained model counts.

Fairlearn has the parities for two classes only, and gives a group without positives the rate 0, which looks like a gap
of 1 where nothing was measured. The tests compare with Fairlearn where both are defined.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .checked_arrays import class_ids, group_codes, predicted_and_true, same_length, scalars

LabelMapping = Mapping[Any, int | None] | None  # value of the attribute -> the label it points to, None or −1 for none


def bias_labels(attributes: Any, mapping: LabelMapping = None) -> np.ndarray:
    """Return the label y_b (n,) that the attribute of each sample points to, or −1 if it points to none.

    Args:
        attributes: The values of the attribute. Without `mapping` they are the labels themselves, None or −1 for none.
        mapping: The label of each value, None or −1 for none.

    Raises:
        ValueError: `mapping` lacks a value, or something is not a label.
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


def bias_following(predictions: Any, labels: Any, attributes: Any, mapping: LabelMapping = None) -> float:
    """Return P(ŷ = y_b | y ≠ y_b), in [0, 1]. y_b is the label that the attribute points to; see `bias_labels`."""
    predicted, _, pointed, against = _pointed(predictions, labels, attributes, mapping)
    if not against.any():
        raise ValueError(
            "`attributes` never points away from the label: without bias-conflicting samples nothing tells the two apart. "
            "Measure on a set where attribute and label are independent."
        )
    return float((predicted == pointed)[against].mean())


def aligned_conflicting_accuracy(
    predictions: Any, labels: Any, attributes: Any, mapping: LabelMapping = None
) -> tuple[float, float]:
    """Return the accuracy where the attribute points to the label, and where it points to another; each in [0, 1]."""
    predicted, true, pointed, against = _pointed(predictions, labels, attributes, mapping)
    right = predicted == true
    parts = {"aligned": right[pointed == true], "conflicting": right[against]}
    for name, part in parts.items():
        if not len(part):
            raise ValueError(
                f"`attributes` leaves no bias-{name} sample. Measure on a set where attribute and label are independent."
            )
    return float(parts["aligned"].mean()), float(parts["conflicting"].mean())


def cramers_v(predictions: Any, attributes: Any) -> float:
    """Return Cramér's V between prediction and attribute, in [0, 1]. It is 0 if the prediction never changes."""
    from scipy.stats.contingency import association

    table = class_counts(predictions, attributes)
    return float(association(table, method="cramer")) if table.shape[1] > 1 else 0.0


def group_accuracies(predictions: Any, labels: Any, attributes: Any) -> dict[Any, float]:
    """Return the accuracy in [0, 1] of each value of the attribute."""
    predicted, true = predicted_and_true(predictions, labels, attributes=attributes)
    names, codes = group_codes(attributes, "attributes")
    right = np.bincount(codes, weights=predicted == true) / np.bincount(codes)
    return dict(zip(names, right.tolist(), strict=True))


def label_groups(attributes: Any, labels: np.ndarray) -> np.ndarray:
    """Return the group (n,) of each sample among those that attribute × label form, numbered from 0."""
    _, codes = group_codes(attributes, "attributes")
    return np.unique(codes * (labels.max() + 1) + labels, return_inverse=True)[1]


def worst_group_accuracy(predictions: Any, labels: Any, attributes: Any, by_label: bool = True) -> tuple[float, int]:
    """Return the lowest accuracy of any group, in [0, 1], and the number of samples in that group.

    Args:
        by_label: A group is a pair of attribute and label if True, the default, and a value of the attribute if False.
    """
    predicted, true = predicted_and_true(predictions, labels, attributes=attributes)
    codes = label_groups(attributes, true) if by_label else group_codes(attributes, "attributes")[1]
    sizes = np.bincount(codes)
    accuracies = np.bincount(codes, weights=predicted == true) / sizes
    worst = accuracies.argmin()
    return float(accuracies[worst]), int(sizes[worst])


def demographic_parity_gap(predictions: Any, attributes: Any) -> float:
    """Return max over classes c of max_a P(ŷ=c|a) − min_a P(ŷ=c|a), in [0, 1] (arXiv 1104.3913)."""
    table = class_counts(predictions, attributes)
    rates = table / table.sum(1, keepdims=True)
    return float((rates.max(0) - rates.min(0)).max())


def equalised_odds_gap(predictions: Any, labels: Any, attributes: Any) -> tuple[float, float]:
    """Return the greatest gap between groups in P(ŷ=c|y=k) over all k and c, and over c = k alone; each in [0, 1].

    The second is equal opportunity (arXiv 1610.02413). A label is compared between the groups that hold samples of it.
    """
    predicted, true = predicted_and_true(predictions, labels, attributes=attributes)
    names, codes = _groups(attributes)
    classes, positions = np.unique(np.stack([true, predicted]), return_inverse=True)
    counts = np.zeros((len(names), len(classes), len(classes)))
    np.add.at(counts, (codes, *positions.reshape(2, -1)), 1)
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
    """Return P(ŷ = positive | y ≠ positive) of each value of the attribute, and over all samples; each in [0, 1].

    Args:
        positive: The class id whose false alarms are counted, by default 1.
    """
    predicted, true = predicted_and_true(predictions, labels, attributes=attributes)
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


def _pointed(predictions: Any, labels: Any, attributes: Any, mapping: LabelMapping) -> tuple[np.ndarray, ...]:
    """Return predicted, true and pointed labels (n,), and which samples (n,) are bias-conflicting."""
    predicted, true = predicted_and_true(predictions, labels, attributes=attributes)
    pointed = bias_labels(attributes, mapping)
    return predicted, true, pointed, (pointed >= 0) & (pointed != true)


def _groups(attributes: Any) -> tuple[list[Any], np.ndarray]:
    """Return the values of the attribute, two at least, and the position (n,) of each sample among them."""
    names, codes = group_codes(attributes, "attributes")
    if len(names) < 2:
        raise ValueError(
            f"`attributes` is {names[0]!r} in every sample: there are no groups to compare. Add the others."
        )
    return names, codes


def class_counts(predictions: Any, attributes: Any) -> np.ndarray:
    """Return how often each predicted class occurs in each group, (groups, classes)."""
    from scipy.stats.contingency import crosstab

    predicted = class_ids(predictions, "predictions")
    same_length(predictions=predicted, attributes=attributes)
    return crosstab(_groups(attributes)[1], predicted).count

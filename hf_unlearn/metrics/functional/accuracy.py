"""Accuracy and F1 of one set."""

from __future__ import annotations

from typing import Any

from .checked_arrays import class_ids, same_length


def accuracy(predictions: Any, labels: Any) -> float:
    """Share of right answers in [0, 1], of class ids (n,). Raises ValueError on empty or unequal columns, and no class ids."""
    predicted, true = class_ids(predictions, "predictions"), class_ids(labels, "references")
    same_length(predictions=predicted, references=true)
    return float((predicted == true).mean())


def unlearning_accuracy(predictions: Any, labels: Any) -> float:
    """UA = 1 − accuracy on the forget set, in [0, 1]. Raises as `accuracy`."""
    return 1 - accuracy(predictions, labels)


def macro_f1(predictions: Any, labels: Any) -> float:
    """Mean F1 over the classes that `labels` holds, in [0, 1]. Raises as `accuracy`."""
    from sklearn.metrics import f1_score

    predicted, true = class_ids(predictions, "predictions"), class_ids(labels, "references")
    same_length(predictions=predicted, references=true)
    return float(f1_score(true, predicted, average="macro", labels=sorted(set(true.tolist())), zero_division=0))

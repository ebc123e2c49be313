"""Accuracy and F1 of one set."""

from typing import Any

from .checked_arrays import predicted_and_true


def accuracy(predictions: Any, labels: Any) -> float:
    """Return the share of right answers, in [0, 1].

    Args:
        predictions: The predicted class ids (n,).
        labels: The true class ids (n,).

    Raises:
        ValueError: A column is empty, holds anything but class ids, or differs in length from the other.
    """
    predicted, true = predicted_and_true(predictions, labels)
    return float((predicted == true).mean())


def unlearning_accuracy(predictions: Any, labels: Any) -> float:
    """Return UA = 1 − `accuracy` of the forget set, in [0, 1]."""
    return 1 - accuracy(predictions, labels)


def macro_f1(predictions: Any, labels: Any) -> float:
    """Return the mean F1 over the classes that `labels` holds, in [0, 1]; arguments as in `accuracy`."""
    from sklearn.metrics import f1_score

    predicted, true = predicted_and_true(predictions, labels)
    return float(f1_score(true, predicted, average="macro", labels=sorted(set(true.tolist())), zero_division=0))

"""Accuracy and F1 against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from hf_unlearn.metrics.functional.accuracy import accuracy, macro_f1, unlearning_accuracy


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_accuracies_are_those_of_scikit_learn(kind):
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 4, 50).tolist(), rng.integers(0, 3, 50).tolist()
    assert accuracy(kind(predicted), kind(true)) == pytest.approx(accuracy_score(true, predicted))
    assert unlearning_accuracy(kind(predicted), kind(true)) == pytest.approx(1 - accuracy_score(true, predicted))


def test_macro_f1_counts_the_classes_among_the_labels():
    predicted, true = [0, 2, 1, 1, 0], [0, 0, 1, 1, 1]
    assert macro_f1(predicted, true) == pytest.approx(f1_score(true, predicted, labels=[0, 1], average="macro"))


@pytest.mark.parametrize("measure", [accuracy, macro_f1, unlearning_accuracy])
def test_columns_of_unequal_length_are_refused(measure):
    with pytest.raises(ValueError, match="`references` has 2 entries and `predictions` 3"):
        measure([0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="`predictions` is empty"):
        measure([], [])

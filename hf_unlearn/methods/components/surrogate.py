"""Surrogate targets: what a model that never saw the rows to forget may say about them."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

FOLDS = 2
FEWEST = 5  # held-out rows of a class, below which the held-out rows of all classes stand in for them
LEAST = 1e-9  # probability


def probe_opinions(
    features: Tensor, labels: Tensor, about: Tensor, classes: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return what a linear probe says of rows that it never saw: of `about` (m, classes), and of its own rows (n, classes).

    The probe is linear discriminant analysis, with the covariance that Ledoit and Wolf (2004) shrink, so that nothing is left to
    choose. It is as near to retrained models as a logistic regression whose strength was chosen by cross-validation, for a fifth
    of the time. What is said of its own rows comes from probes that were not taught these rows.

    Args:
        features: of the rows to learn from, (n, d).
        labels: their classes, (n,), at least two of them.
        about: features of other rows, (m, d).
        classes: number of classes of the head. Classes without rows get the probability 0.
        seed: seed of the folds. Default 0.
    """
    x, y, others = features.double().numpy(), labels.numpy(), about.double().numpy()
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    unseen = torch.zeros(len(y), classes)
    for part in range(FOLDS):
        unseen[fold == part] = _probe(x[fold != part], y[fold != part], x[fold == part], classes)
    return _probe(x, y, others, classes), unseen


def _probe(x: np.ndarray, y: np.ndarray, about: np.ndarray, classes: int) -> Tensor:
    """Return probabilities (m, classes) for the rows `about`; the share of each class in `y` if too few rows tell more."""
    found, counts = np.unique(y, return_counts=True)
    out = torch.zeros(len(about), classes)
    if len(found) > 1 and len(y) > len(found):
        with warnings.catch_warnings():  # a class of a single row adds nothing to the covariance
            warnings.filterwarnings("ignore", "Only one sample available")
            probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
        out[:, found] = torch.as_tensor(probe.predict_proba(about)).float()
    elif len(found):
        out[:, found] = torch.as_tensor(counts / counts.sum()).float()
    else:
        out += 1 / classes
    return out


def accuracies(said: Tensor, labels: Tensor, unseen: Tensor, kept_labels: Tensor) -> tuple[float, float, float]:
    """Return how often probes are right on rows to forget, how often on retain rows of these classes, and the error of both.

    Args:
        said: what the probes say of rows to forget, (m, classes).
        labels: of these rows, (m,).
        unseen: what they say of retain rows that they were not taught, (n, classes).
        kept_labels: of these rows, (n,). If there is none of a class, all of them stand in for it.

    Returns:
        Shares in [0, 1], the second one weighted as the rows to forget, and the standard error of their difference at most.
    """
    right = (unseen.argmax(-1) == kept_labels).double()
    alike = torch.isin(kept_labels, labels) if torch.isin(labels, kept_labels).all() else torch.ones_like(kept_labels)
    of_class = {int(c): right[kept_labels == c] for c in labels.unique()}
    expected = [(of_class[c] if len(of_class[c]) else right).mean().item() for c in labels.tolist()]
    found = (said.argmax(-1) == labels).double().mean().item()
    return found, sum(expected) / len(labels), 0.5 * math.sqrt(1 / len(labels) + 1 / int(alike.sum()))


def sharpness(p: Tensor, confidence: float) -> float:
    """Return the τ in [1, 8] for which the mean confidence of probabilities ∝ p^τ is nearest to `confidence`."""
    low, high = 1.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        if mean_confidence(power(p, middle)) < confidence:
            low = middle
        else:
            high = middle
    return low


def power(p: Tensor, exponent: float) -> Tensor:
    """Return probabilities ∝ p^`exponent`."""
    return (exponent * p.clamp_min(LEAST).log()).softmax(-1)


def sharpened(p: Tensor, confidence: float) -> Tensor:
    """Return `power(p, τ)` with the τ of `sharpness`."""
    return power(p, sharpness(p, confidence))


def geometric_mean(opinions: Sequence[Tensor]) -> Tensor:
    """Return probabilities ∝ the geometric mean of those of all opinions, each (n, classes)."""
    return torch.stack([p.clamp_min(LEAST).log() for p in opinions]).mean(0).softmax(-1)


def mean_confidence(p: Tensor) -> float:
    """Return the mean of the largest probability of each row of `p` (n, classes)."""
    return p.amax(-1).mean().item()


def as_unseen(own: Tensor, labels: Tensor, unseen: Tensor, unseen_labels: Tensor) -> Tensor:
    """Return the log-odds `own` of the labels of rows (n,), moved by rank to those of unseen rows.

    The log-odds of the rows of a class, in order, become the quantiles of those of unseen rows of this class. So the rows that the
    model is most sure of stay those, and as a whole it is as sure of them as of rows that it never saw.

    Args:
        own: log-odds of the labels, (n,).
        labels: (n,).
        unseen: log-odds of the labels of rows that the model was not trained on, (m,), at least one row.
        unseen_labels: (m,).
    """
    out = own.clone()
    for label in labels.unique():
        rows, of_class = (labels == label).nonzero()[:, 0], unseen[unseen_labels == label]
        known = of_class if len(of_class) >= FEWEST else unseen
        rank = own[rows].argsort(stable=True).argsort(stable=True)
        out[rows] = torch.quantile(known, (rank + 0.5) / len(rows))
    return out


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y / (1 − p_y) of the labels y for p = softmax(logits), (n,)."""
    y = labels[:, None]
    return logits.gather(1, y)[:, 0] - logits.scatter(1, y, -torch.inf).logsumexp(-1)

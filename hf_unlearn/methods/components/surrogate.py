"""Surrogate targets: what a model that never saw the rows to forget may say about them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, from the simplest probe on
FOLDS = 4
FEWEST = 5  # held-out rows of a class, below which the held-out rows of all classes stand in for them
LEAST = 1e-9  # probability


def train_probe(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> tuple[Pipeline, Tensor]:
    """Return a logistic regression on standardized features, as strong as cross-validation allows, and what it says there.

    Of the strengths of regularization, the simplest probe is taken whose cross-entropy on unseen rows is within one standard error
    of the best (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). What it says there are probabilities
    (n, classes) for each row, by a probe that was not taught this row; all classes are alike if none could be taught.

    Args:
        features: of the rows to learn from, (n, d).
        labels: their classes, (n,), at least two of them.
        classes: number of classes of the head.
        seed: seed of the folds. Default 0.
    """
    x, y = features.numpy(), labels.numpy()
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    usable = [part for part in range(FOLDS) if len(np.unique(y[fold != part])) > 1 and (fold == part).any()]
    means, errors, answers = {}, {}, {}
    for strength in STRENGTHS:
        given = torch.full((len(y), classes), 1 / classes)
        for part in usable:
            seen, unseen = fold != part, fold == part
            given[unseen] = probe_probabilities(_probe(strength).fit(x[seen], y[seen]), x[unseen], classes)
        losses = -given[torch.arange(len(y)), labels].clamp_min(LEAST).log()
        by_fold = [float(losses[fold == part].mean()) for part in usable] or [0.0]
        means[strength], errors[strength] = np.mean(by_fold), np.std(by_fold) / math.sqrt(len(by_fold))
        answers[strength] = given
    best = min(means, key=lambda strength: means[strength])
    chosen = next(strength for strength in STRENGTHS if means[strength] <= means[best] + errors[best])
    return _probe(chosen).fit(x, y), answers[chosen]


def _probe(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def probe_probabilities(probe: Pipeline, features: Tensor | np.ndarray, classes: int) -> Tensor:
    """Return the probabilities (n, classes) of `probe`, with 0 for classes that it was not taught."""
    out = torch.zeros(len(features), classes)
    out[:, probe.classes_] = torch.as_tensor(probe.predict_proba(np.asarray(features)), dtype=torch.float32)
    return out


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

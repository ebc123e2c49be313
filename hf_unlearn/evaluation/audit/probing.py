"""What the features in front of the last layer still know, whatever the last layer makes of them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .evidence import Estimate, separation


def class_probe(train: Tensor, train_is: Tensor, test: Tensor, test_is: Tensor, seed: int = 0) -> Estimate:
    """Balanced accuracy on test rows of a linear probe for one group of classes, trained on frozen features; in [0, 1].

    Logistic regression on standardised features, classes balanced.

    Args:
        train, test: (n, d) and (m, d) features.
        train_is, test_is: (n,) and (m,) boolean, true for rows of the forgotten classes.

    Raises:
        ValueError: one side is missing in either set.
    """
    for name, given in (("train_is", train_is), ("test_is", test_is)):
        if given.all() or not given.any():
            raise ValueError(f"`{name}` has rows of one side only: there is nothing to tell apart.")
    probe = _probe(seed).fit(train.numpy(), train_is.numpy())
    right = probe.predict(test.numpy()) == test_is.numpy()
    yes, no = (right[side].astype(np.float64) for side in (test_is.numpy(), ~test_is.numpy()))
    return Estimate(float(yes.mean() + no.mean()) / 2, (yes / 2, no / 2), 0.5)


def membership_probe(forget: Tensor, test: Tensor, folds: int = 5, seed: int = 0) -> Estimate:
    """AUC of a linear probe that tells forget rows from unseen rows by their features (n, d) and (m, d), cross-validated.

    0.5 where features do not tell which rows the model was trained on.

    Raises:
        ValueError: fewer rows than folds.
    """
    if min(len(forget), len(test)) < folds:
        raise ValueError(f"`forget` and `test` need at least {folds} rows each, got {len(forget)} and {len(test)}.")
    x = torch.cat([forget, test]).numpy()
    y = np.concatenate([np.ones(len(forget)), np.zeros(len(test))])
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_predict(_probe(seed), x, y, cv=parts, method="decision_function")
    return separation(scores[y == 1], scores[y == 0])


def _probe(seed: int):  # type: ignore[no-untyped-def]
    model = LogisticRegression(class_weight="balanced", C=0.1, max_iter=500, random_state=seed)
    return make_pipeline(StandardScaler(), model)


def feature_similarity(a: Tensor, b: Tensor) -> float:
    """Linear CKA of two models' features (n, d) and (n, e) of the same rows, in [0, 1]; Kornblith et al., arXiv 1905.00414.

    1 where one is the other up to rotation, shift and scale.
    """
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    cross, own = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return float(cross / own) if own > 0 else 0.0

"""Linear probes of the features in front of the last layer, which may still know what the outputs hide."""

import math

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .evidence import Estimate, separation

SMALLEST_DISTANCE = 1e-4  # added to 1 − CKA, which is 0 for the original's own features
FOLDS = 5  # of the cross-validation
PROTOTYPE_DRAWS = 20
COVARIANCE_ROWS = 1_500


def class_probe(train: Tensor, train_is: Tensor, test: Tensor, test_is: Tensor) -> Estimate:
    """Return how well a linear probe on frozen features recognizes the forgotten classes: balanced accuracy, in [0, 1].

    The probe is a logistic regression on standardized features with balanced classes.

    Args:
        train, test: features that the probe is trained on (n, d) and measured on (m, d).
        train_is, test_is: (n,) and (m,) boolean, true for rows of the forgotten classes.

    Raises:
        ValueError: a set has rows of the forgotten classes only, or none of them.
    """
    for name, given in (("train_is", train_is), ("test_is", test_is)):
        if given.all() or not given.any():
            raise ValueError(f"`{name}` must be true for some rows and false for others: a probe needs both sides.")
    probe = _probe().fit(train.numpy(), train_is.numpy())
    right = probe.predict(test.numpy()) == test_is.numpy()
    yes, no = (right[side].astype(np.float64) for side in (test_is.numpy(), ~test_is.numpy()))
    return Estimate(float(yes.mean() + no.mean()) / 2, (yes / 2, no / 2), 0.5)


def membership_probe(forget: Tensor, test: Tensor) -> Estimate:
    """Return the cross-validated AUC of a linear probe that tells forget rows from unseen rows by their features.

    The AUC is 0.5 if the features do not tell which rows the model was trained on.

    Args:
        forget, test: features (n, d) and (m, d), at least `FOLDS` rows each.
    """
    x = torch.cat([forget, test]).numpy()
    y = np.concatenate([np.ones(len(forget)), np.zeros(len(test))])
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(_probe(), x, y, cv=parts, method="decision_function")
    return separation(scores[y == 1], scores[y == 0])


def prototypes(
    forget: Tensor,
    forget_labels: Tensor,
    kept: Tensor,
    kept_labels: Tensor,
    test: Tensor,
    test_is: Tensor,
    rows: int = 10,
    seed: int = 0,
) -> Estimate:
    """Return how well a few forget rows bring their classes back on frozen features: hits less false alarms, in [−1, 1].

    The mean of `rows` forget rows of a class stands for this class, beside the means of the kept classes. Each test row goes to
    the nearest mean, in the metric of linear discriminant analysis: the inverse of the covariance within kept classes, shrunk as
    Ledoit and Wolf (2004) do. A single row is compared by its angle from the mean of all kept rows, because its noise makes it
    long. The figure is the mean over `PROTOTYPE_DRAWS` draws of rows. Nothing is trained, so it shows what the features hold, and
    not how fast weights move.

    Args:
        forget, forget_labels: features (n, d) and classes (n,) of forget rows.
        kept, kept_labels: features (m, d) and classes (m,) of rows of kept classes, of which the first `COVARIANCE_ROWS` are used.
        test, test_is: features (k, d) of other rows, and whether they are of a forgotten class (k,).
        rows: forget rows of each class that are known. Default 10.
        seed: seed of the draws. Default 0.
    """
    x, y = kept[:COVARIANCE_ROWS].double().numpy(), kept_labels[:COVARIANCE_ROWS].numpy()
    found, group = np.unique(y, return_inverse=True)
    means = np.stack([x[group == i].mean(0) for i in range(len(found))])
    inverse = np.linalg.inv(ledoit_wolf(x - means[group], assume_centered=True)[0])
    white, middle, taught = np.linalg.cholesky(inverse), x.mean(0), forget_labels.numpy()
    means, gone, asked = ((z - middle) @ white for z in (means, forget.double().numpy(), test.double().numpy()))
    draw, hits = np.random.default_rng(seed), np.zeros(len(asked))
    for _ in range(PROTOTYPE_DRAWS):
        few = [draw.permutation(np.flatnonzero(taught == c))[:rows] for c in np.unique(taught)]
        centres = np.concatenate([means, np.stack([gone[of_class].mean(0) for of_class in few])])
        if rows == 1:
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        nearness = asked @ centres.T - 0.5 * np.square(centres).sum(1) * (rows > 1)
        hits += (nearness.argmax(1) >= len(means)) / PROTOTYPE_DRAWS
    yes, no = hits[test_is.numpy()], hits[~test_is.numpy()]
    return Estimate(float(yes.mean() - no.mean()), (yes, -no), 1.0)


def _probe() -> Pipeline:
    model = LogisticRegression(class_weight="balanced", C=0.1, max_iter=500, random_state=0)
    return make_pipeline(StandardScaler(), model)


def feature_likeness(a: Tensor, b: Tensor) -> Estimate:
    """Return how alike two models' features (n, d) and (n, e) of the same rows are: −ln(1 − CKA), higher is more alike.

    The linear CKA of centered features is c / (p q) with c = ‖AᵀB‖², p = ‖AᵀA‖ and q = ‖BᵀB‖. It is 1 if one is the other up to
    rotation, shift and scale (Kornblith et al., arXiv 1905.00414). The influence of row i on its logarithm is, times n,

        2 aᵢᵀ(AᵀB)bᵢ / c − aᵢᵀ(AᵀA)aᵢ / p² − bᵢᵀ(BᵀB)bᵢ / q²
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    cross, own, other = a.T @ b, a.T @ a, b.T @ b
    c, p, q = cross.square().sum(), own.norm(), other.norm()
    if not p > 0 or not q > 0 or not c > 0:
        return Estimate(-math.log(1 + SMALLEST_DISTANCE))
    cka = float(c / (p * q))
    away = 1 - min(cka, 1.0) + SMALLEST_DISTANCE
    log_influence = 2 * ((a @ cross) * b).sum(1) / c - ((a @ own) * a).sum(1) / p**2 - ((b @ other) * b).sum(1) / q**2
    return Estimate(-math.log(away), ((len(a) * cka / away * log_influence).numpy(),))

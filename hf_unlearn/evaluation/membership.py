"""Membership inference: how many of the forget samples an attacker still takes for training data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def prediction_entropy(logits: Tensor) -> np.ndarray:
    """Entropy of softmax(logits) in nats, shape (n,), fp64."""
    log_p = torch.log_softmax(logits.double(), dim=-1)
    return -(log_p.exp() * log_p).sum(-1).numpy()


def entropy_attack(retain_logits: Tensor, test_logits: Tensor, forget_logits: Tensor) -> float:
    """Share of forget samples called members by the entropy attack of arXiv 2402.01401, in [0, 1].

    Logistic regression (balanced classes, lbfgs) on the prediction entropy tells retained training samples from test samples
    and is then asked about the forget samples. The aim is the retrained model's share, not zero.

    Args:
        retain_logits, test_logits, forget_logits: (n, classes) each, of one model.
    """
    from sklearn.linear_model import LogisticRegression

    members, others = prediction_entropy(retain_logits), prediction_entropy(test_logits)
    x = np.concatenate([members, others])[:, None]
    y = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    attack = LogisticRegression(class_weight="balanced", solver="lbfgs").fit(x, y)
    return float(attack.predict(prediction_entropy(forget_logits)[:, None]).mean())

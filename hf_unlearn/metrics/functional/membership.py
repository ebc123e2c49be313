"""Membership inference: how many of the forget samples an attacker still takes for training data.

An attack learns, on one model's outputs, to tell retained training samples from test samples, and is then asked about the
forget samples. No value is good or bad by itself: the aim is what the same attack says of the retrained model.

Outputs are pairs of logits (n, classes) and labels (n,). All functions raise ValueError on empty sets, NaN, and labels that
do not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checked_arrays import class_ids, log_probabilities, same_length
from .roc import placements, true_positives

Outputs = tuple[Any, Any]  # logits (n, classes), labels (n,)

FLOOR = -1e4  # nats: a probability of exactly 0, whose infinite loss has no place in a ROC curve


# --- what an attacker looks at ----------------------------------------------------------------------------------------


def prediction_entropy(logits: Any) -> np.ndarray:
    """Entropy of softmax(logits) in nats, shape (n,), fp64."""
    return torch.special.entr(log_probabilities(logits, "predictions").exp()).sum(-1).numpy()


def loss(logits: Any, labels: Any) -> np.ndarray:
    """Cross-entropy (n,) in nats, fp64."""
    log_p, y = _checked(logits, labels)
    return -_sharp(log_p)[0].gather(-1, y[:, None])[:, 0].numpy()


def confidence(logits: Any, labels: Any) -> np.ndarray:
    """Probability of the true label, (n,), fp64."""
    return np.exp(-loss(logits, labels))


def modified_entropy(logits: Any, labels: Any) -> np.ndarray:
    """−(1−p_y) log p_y − Σ_{i≠y} p_i log(1−p_i), (n,) in nats, fp64: low only where the model is right and sure.

    Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", arXiv 2003.10595.
    """
    log_p, y = _checked(logits, labels)
    log_p, log_not = _sharp(log_p)
    y = y[:, None]
    wrong = (log_p.exp() * log_not).scatter(-1, y, 0.0).sum(-1)
    right = (log_not.exp() * log_p).gather(-1, y)[:, 0]
    return -(right + wrong).numpy()


# What `mia_efficacy` can look at: feature -> (n,) or (n, classes).
FEATURES: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "confidence": confidence,
    "correctness": lambda logits, labels: (log_probabilities(logits, "predictions").argmax(-1).numpy() == labels) * 1.0,
    "entropy": lambda logits, labels: prediction_entropy(logits),
    "modified_entropy": modified_entropy,
    "probabilities": lambda logits, labels: log_probabilities(logits, "predictions").exp().numpy(),
}

# What `threshold_attack` can look at, low for members: score -> (n,) nats.
SCORES: dict[str, Callable[[Any, Any], np.ndarray]] = {"loss": loss, "modified_entropy": modified_entropy}


# --- attacks ----------------------------------------------------------------------------------------------------------


def entropy_attack(retain_logits: Any, test_logits: Any, forget_logits: Any) -> float:
    """Share of forget samples called members by the entropy attack of arXiv 2402.01401, in [0, 1].

    Logistic regression (balanced classes, lbfgs) on the prediction entropy tells retained training samples from test samples
    and is then asked about the forget samples. The aim is the retrained model's share, not zero.

    Args:
        retain_logits, test_logits, forget_logits: (n, classes) each, of one model.
    """
    return float(entropy_attack_calls(retain_logits, test_logits, forget_logits).mean())


def entropy_attack_calls(retain_logits: Any, test_logits: Any, forget_logits: Any) -> np.ndarray:
    """Which forget samples (n,) the entropy attack calls members, boolean; arguments as in `entropy_attack`."""
    from sklearn.linear_model import LogisticRegression

    members, others = prediction_entropy(retain_logits), prediction_entropy(test_logits)
    x = np.concatenate([members, others])[:, None]
    y = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    attack = LogisticRegression(class_weight="balanced", solver="lbfgs").fit(x, y)
    return attack.predict(prediction_entropy(forget_logits)[:, None]) == 1


def mia_efficacy(retain: Outputs, test: Outputs, forget: Outputs, feature: str = "confidence", seed: int = 0) -> float:
    """Share of forget samples called non-members by a support vector machine, in [0, 1].

    SVC(C=3, rbf, gamma="auto") on one of `FEATURES`; members are as many retain samples as there are test samples, drawn with
    `seed`, or all of them where there are fewer. Jia et al., arXiv 2304.04934; SalUn, arXiv 2310.12508. Training takes time
    quadratic in the test samples.

    Raises:
        ValueError: also an unknown feature.
    """
    from sklearn.svm import SVC

    if feature not in FEATURES:
        raise ValueError(f"`feature={feature!r}` is not known. Choose one of {', '.join(map(repr, FEATURES))}.")
    members, others, asked = (_feature(feature, *outputs) for outputs in (retain, test, forget))
    if len(members) > len(others):
        members = members[np.random.default_rng(seed).choice(len(members), len(others), replace=False)]
    attack = SVC(C=3, kernel="rbf", gamma="auto")
    attack.fit(np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)]))
    return float(1 - attack.predict(asked).mean())


def threshold_attack(
    retain: Outputs, test: Outputs, forget: Outputs, score: str = "loss", per_class: bool = False
) -> dict[str, float]:
    """Forget samples told from test samples by one of `SCORES`, and called members under a threshold.

    The threshold is the score that tells retain from test samples best (balanced accuracy). With `per_class` every label has
    its own, and the ROC curve moves all of them together; a label without retain or without test samples takes the common
    one. Test samples both place the thresholds and count the false alarms, which favours the attacker a little.

    Returns:
        `membership_roc` of forget against test samples, and `called_members`, the share of forget samples under the
        threshold; all in [0, 1].

    Raises:
        ValueError: also an unknown score.
    """
    if score not in SCORES:
        raise ValueError(f"`score={score!r}` is not known. Choose one of {', '.join(map(repr, SCORES))}.")
    sets = [(SCORES[score](*outputs), np.asarray(outputs[1])) for outputs in (retain, test, forget)]
    (members, member_labels), (others, other_labels), (asked, asked_labels) = sets
    common = _threshold(members, others)
    thresholds = dict.fromkeys(np.concatenate([other_labels, asked_labels]).tolist(), common)
    if per_class:
        for label in np.intersect1d(member_labels, other_labels).tolist():
            thresholds[label] = _threshold(members[member_labels == label], others[other_labels == label])
    others = others - np.array([thresholds[label] for label in other_labels.tolist()])
    asked = asked - np.array([thresholds[label] for label in asked_labels.tolist()])
    return {**membership_roc(-asked, -others), "called_members": float((asked <= 0).mean())}


def membership_roc(members: Any, others: Any) -> dict[str, float]:
    """How well scores, high for members, tell `members` (n,) from `others` (m,).

    Returns:
        `auc`, 0.5 by chance, and `tpr_at_1_percent_fpr` and `tpr_at_0.1_percent_fpr`: the greatest share of members found
        with at most that share of false alarms among the others; with fewer than 100 or 1,000 others that means none.
    """
    members, others = np.sort(members), np.sort(others)
    shares = true_positives(members, others, np.array([0.01, 0.001]))
    found = {f"tpr_at_{percent}_percent_fpr": float(s) for percent, s in zip(("1", "0.1"), shares, strict=True)}
    return {"auc": float(placements(members, others)[0].mean()), **found}


# --- parts ------------------------------------------------------------------------------------------------------------


def _checked(logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, classes) and labels (n,) that are classes of them."""
    log_p, ids = log_probabilities(logits, "predictions"), class_ids(labels, "references")
    same_length(predictions=log_p, references=ids)
    if ids.max() >= log_p.shape[1]:
        raise ValueError(
            f"`references` holds class {ids.max()}, `predictions` has {log_p.shape[1]} classes, from 0 up."
        )
    return log_p, torch.as_tensor(ids)


def _sharp(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 − p), each (n, classes) and not below `FLOOR`, exact where a sure model's p rounds to 1."""
    top = log_p.argmax(-1, keepdim=True)
    rest = log_p.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    log_not = torch.log1p(-log_p.exp()).scatter(-1, top, rest)
    log_p = log_p.scatter(-1, top, torch.log1p(-rest.exp()))
    return log_p.clamp_min(FLOOR), log_not.clamp_min(FLOOR)


def _feature(name: str, logits: Any, labels: Any) -> np.ndarray:
    """(n, features) for scikit-learn."""
    log_p, ids = _checked(logits, labels)
    return FEATURES[name](log_p, ids.numpy()).reshape(len(ids), -1)


def _threshold(members: np.ndarray, others: np.ndarray) -> float:
    """The score at or under which to call a sample a member, for the best balanced accuracy; one of the scores."""
    from sklearn.metrics import roc_curve

    truth = np.repeat([1, 0], [len(members), len(others)])
    fpr, tpr, thresholds = roc_curve(truth, -np.concatenate([members, others]), drop_intermediate=False)
    return -float(thresholds[1:][(tpr - fpr)[1:].argmax()])

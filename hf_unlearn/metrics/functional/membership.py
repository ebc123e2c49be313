"""Membership inference on populations: how many of the forget samples an attacker still takes for training data.

An attack learns from the outputs of one model to tell retained training samples from test samples, and then judges the
forget samples. No value is good or bad by itself. The target is the value of the same attack on the retrained model.

Outputs are pairs of logits (n, classes) and true class ids (n,). Log-probabilities give the same result as logits.
`retain` holds the outputs on retained training samples, the members; `test` those on test samples, the non-members;
`forget` those on the samples to judge. Every function raises ValueError if a set is empty, a logit is NaN, or a label
is not a class of the logits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checked_arrays import class_ids, log_probabilities, same_length
from .roc import placements, true_positives

Outputs = tuple[Any, Any]  # logits (n, classes), labels (n,)

FLOOR = -1e4  # nats: stands for the log of a probability of exactly 0, because a ROC has no place for an infinite loss


def prediction_entropy(logits: Any) -> np.ndarray:
    """Return the entropy (n,) of softmax(logits) in nats, fp64."""
    return torch.special.entr(log_probabilities(logits, "predictions").exp()).sum(-1).numpy()


def loss(logits: Any, labels: Any) -> np.ndarray:
    """Return the cross-entropy (n,) in nats, fp64."""
    log_p, y = _checked(logits, labels)
    return -_sharp(log_p)[0].gather(-1, y[:, None])[:, 0].numpy()


def confidence(logits: Any, labels: Any) -> np.ndarray:
    """Return the probability (n,) of the true label, fp64."""
    return np.exp(-loss(logits, labels))


def modified_entropy(logits: Any, labels: Any) -> np.ndarray:
    """Return −(1−p_y) log p_y − Σ_{i≠y} p_i log(1−p_i), (n,) in nats, fp64 (Song and Mittal, arXiv 2003.10595).

    The value is low only where the model is right and sure.
    """
    log_p, y = _checked(logits, labels)
    log_p, log_not = _sharp(log_p)
    y = y[:, None]
    wrong = (log_p.exp() * log_not).scatter(-1, y, 0.0).sum(-1)
    right = (log_not.exp() * log_p).gather(-1, y)[:, 0]
    return -(right + wrong).numpy()


# Features of `mia_efficacy`: functions of logits and labels that return (n,) or (n, classes).
FEATURES: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "confidence": confidence,
    "correctness": lambda logits, labels: (log_probabilities(logits, "predictions").argmax(-1).numpy() == labels) * 1.0,
    "entropy": lambda logits, labels: prediction_entropy(logits),
    "modified_entropy": modified_entropy,
    "probabilities": lambda logits, labels: log_probabilities(logits, "predictions").exp().numpy(),
}

# Scores of `threshold_attack`, low for members: functions of logits and labels that return (n,) nats.
SCORES: dict[str, Callable[[Any, Any], np.ndarray]] = {"loss": loss, "modified_entropy": modified_entropy}


def entropy_attack(retain_logits: Any, test_logits: Any, forget_logits: Any) -> float:
    """Return the share of forget samples that `entropy_attack_calls` calls members, in [0, 1]."""
    return float(entropy_attack_calls(retain_logits, test_logits, forget_logits).mean())


def entropy_attack_calls(retain_logits: Any, test_logits: Any, forget_logits: Any) -> np.ndarray:
    """Return which forget samples (n,) the entropy attack of Foster et al. (arXiv 2402.01401) calls members, boolean.

    A logistic regression (balanced classes, lbfgs) on the prediction entropy learns to tell retained training samples
    from test samples, and then judges the forget samples.

    Args:
        retain_logits, test_logits, forget_logits: The logits (samples, classes) of one model on these sets.
    """
    from sklearn.linear_model import LogisticRegression

    members, others = prediction_entropy(retain_logits), prediction_entropy(test_logits)
    x = np.concatenate([members, others])[:, None]
    y = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    attack = LogisticRegression(class_weight="balanced", solver="lbfgs").fit(x, y)
    return attack.predict(prediction_entropy(forget_logits)[:, None]) == 1


def mia_efficacy(retain: Outputs, test: Outputs, forget: Outputs, feature: str = "confidence", seed: int = 0) -> float:
    """Return the share of forget samples that a support vector machine calls non-members, in [0, 1].

    The attack of Jia et al. (arXiv 2304.04934) and SalUn (arXiv 2310.12508): SVC(C=3, rbf, gamma="auto"). The training
    time grows with the square of the number of test samples.

    Args:
        retain, test, forget: Outputs, as above. At most as many retain samples as test samples are drawn.
        feature: The feature that the machine sees, one of `FEATURES`. The default is the probability of the true label.
        seed: The seed of the draw of retain samples, by default 0.

    Raises:
        ValueError: The feature is unknown, or the outputs are invalid as above.
    """
    from sklearn.svm import SVC

    if feature not in FEATURES:
        raise ValueError(f"`feature={feature!r}` is not known. Choose one of {', '.join(map(repr, FEATURES))}.")
    members, others, judged = (_feature(feature, *outputs) for outputs in (retain, test, forget))
    if len(members) > len(others):
        members = members[np.random.default_rng(seed).choice(len(members), len(others), replace=False)]
    attack = SVC(C=3, kernel="rbf", gamma="auto")
    attack.fit(np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)]))
    return float(1 - attack.predict(judged).mean())


def threshold_attack(
    retain: Outputs, test: Outputs, forget: Outputs, score: str = "loss", per_class: bool = False
) -> dict[str, float]:
    """Tell forget samples from test samples by a score, and call those under a threshold members.

    The threshold is the score that tells retain from test samples with the best balanced accuracy. Test samples both
    place the threshold and count the false alarms, which favors the attacker a little.

    Args:
        retain, test, forget: Outputs, as above.
        score: The score, one of `SCORES`. The default is the cross-entropy.
        per_class: If True, every label has its own threshold, and the ROC curve moves all of them together. A label
            without retain or without test samples takes the common threshold. By default all labels share one.

    Returns:
        The values of `membership_roc` for forget against test samples, and `called_members`, the share of forget
        samples under the threshold; all in [0, 1].

    Raises:
        ValueError: The score is unknown, or the outputs are invalid as above.
    """
    if score not in SCORES:
        raise ValueError(f"`score={score!r}` is not known. Choose one of {', '.join(map(repr, SCORES))}.")
    sets = [(SCORES[score](*outputs), np.asarray(outputs[1])) for outputs in (retain, test, forget)]
    (members, member_labels), (others, other_labels), (judged, judged_labels) = sets
    common = _threshold(members, others)
    thresholds = dict.fromkeys(np.concatenate([other_labels, judged_labels]).tolist(), common)
    if per_class:
        for label in np.intersect1d(member_labels, other_labels).tolist():
            thresholds[label] = _threshold(members[member_labels == label], others[other_labels == label])
    others = others - np.array([thresholds[label] for label in other_labels.tolist()])
    judged = judged - np.array([thresholds[label] for label in judged_labels.tolist()])
    return {**membership_roc(-judged, -others), "called_members": float((judged <= 0).mean())}


def membership_roc(members: Any, others: Any) -> dict[str, float]:
    """Measure how well scores that are high for members tell `members` (n,) from `others` (m,).

    Returns:
        `auc`, 0.5 by chance, and `tpr_at_1_percent_fpr` and `tpr_at_0.1_percent_fpr`: the greatest share of members
        found with at most that share of false alarms among the others. With fewer than 100 or 1,000 others there is
        then no false alarm.
    """
    members, others = np.sort(members), np.sort(others)
    shares = true_positives(members, others, np.array([0.01, 0.001]))
    found = {f"tpr_at_{percent}_percent_fpr": float(s) for percent, s in zip(("1", "0.1"), shares, strict=True)}
    return {"auc": float(placements(members, others)[0].mean()), **found}


def _checked(logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (n, classes) and labels (n,), which are classes of them."""
    log_p, ids = log_probabilities(logits, "predictions"), class_ids(labels, "references")
    same_length(predictions=log_p, references=ids)
    if ids.max() >= log_p.shape[1]:
        raise ValueError(
            f"`references` holds class {ids.max()}, `predictions` has {log_p.shape[1]} classes, from 0 up."
        )
    return log_p, torch.as_tensor(ids)


def _sharp(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 − p), (n, classes) each, at least `FLOOR`, exact where the p of a sure model rounds to 1."""
    top = log_p.argmax(-1, keepdim=True)
    others = log_p.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    log_not = torch.log1p(-log_p.exp()).scatter(-1, top, others)
    log_p = log_p.scatter(-1, top, torch.log1p(-others.exp()))
    return log_p.clamp_min(FLOOR), log_not.clamp_min(FLOOR)


def _feature(name: str, logits: Any, labels: Any) -> np.ndarray:
    """Return a feature of `FEATURES` as (n, features), the shape that scikit-learn takes."""
    log_p, ids = _checked(logits, labels)
    return FEATURES[name](log_p, ids.numpy()).reshape(len(ids), -1)


def _threshold(members: np.ndarray, others: np.ndarray) -> float:
    """Return the score up to which calling a sample a member has the best balanced accuracy; one of the scores."""
    from sklearn.metrics import roc_curve

    truth = np.repeat([1, 0], [len(members), len(others)])
    fpr, tpr, thresholds = roc_curve(truth, -np.concatenate([members, others]), drop_intermediate=False)
    return -float(thresholds[1:][(tpr - fpr)[1:].argmax()])

"""Rows of every metric, and its values computed by hand: module -> (options of the constructor, columns, values)."""

import math

import numpy as np

import hf_unlearn.metrics as metrics

CLASSES_OF = {module: name for name, module in metrics._NAMES.items()}


def pairs(confidences, labels):
    """Log-probabilities of two classes, of which the true one has `confidences`, and the labels."""
    p, y = np.array(confidences), np.array(labels)
    return np.log(np.where(y[:, None] == [0, 1], p[:, None], 1 - p[:, None])), y


def certain(classes, n=3):
    """Logits that say one class for certain."""
    return np.where(np.eye(n)[np.array(classes)] > 0, 0.0, -np.inf)


# --- bias: ten samples of three classes. The color points to a class: red to 0, green to 1, gray to none. --------------

PREDICTED = [0, 0, 1, 0, 1, 1, 2, 2, 0, 1]
TRUE = [0, 0, 1, 1, 0, 1, 2, 2, 2, 2]
COLORS = ["red", "red", "red", "red", "green", "green", "green", "gray", "red", "green"]
POINTS = {"red": 0, "green": 1, "gray": None}
ALL = {"predictions": PREDICTED, "references": TRUE, "attributes": COLORS}
UNLABELED = {"predictions": PREDICTED, "attributes": COLORS}

# Against the color are samples 2, 3, 4, 6, 8 and 9; the prediction follows the color in 3, 4, 8 and 9.
# Aligned are 0, 1 and 5, all right; of the six conflicting ones 2 and 6 are right.
BIAS = {
    "bias_following": ({"mapping": POINTS}, ALL, {"bias_following": 4 / 6}),
    "aligned_conflicting_gap": (
        {"mapping": POINTS},
        ALL,
        {"aligned_accuracy": 1.0, "conflicting_accuracy": 2 / 6, "aligned_conflicting_gap": 1 - 2 / 6},
    ),
    # red×0 2/2, red×1 1/2, red×2 0/1, green×0 0/1, green×1 1/1, green×2 1/2, gray×2 1/1
    "worst_group_accuracy": (
        {},
        ALL,
        {
            "worst_group_accuracy": 0.0,
            "worst_group_samples": 1,
            "worst_attribute_accuracy": 2 / 4,  # green: 5 and 6 of 4, 5, 6, 9
            "worst_attribute_samples": 4,
        },
    ),
    # Predicted 0, 1, 2: red 4/5, 1/5, 0; green 0, 3/4, 1/4; gray 0, 0, 1.
    "demographic_parity": ({}, UNLABELED, {"demographic_parity_gap": 1.0}),
    # Label 0: red says 0 always, green 1 always. Label 1: red 0 or 1, green 1. Label 2: red 0, green 2 or 1, gray 2.
    "equalised_odds": ({}, ALL, {"equalised_odds_gap": 1.0, "equal_opportunity_gap": 1.0}),
    # Counts (0, 1, 2): red (4, 1, 0), green (0, 3, 1), gray (0, 0, 1); n = 10, columns 4, 4, 2.
    # χ² = n (Σ O² / (row × column) − 1) = 10 (16/20 + 1/20 + 9/16 + 1/8 + 1/2 − 1) = 10.375; V² = 10.375 / (10 × 2).
    "cramers_v": ({}, UNLABELED, {"cramers_v": (10.375 / 20) ** 0.5}),
    # Not of class 1: red 0, 1, 8 (none is called 1), green 4, 6, 9 (two are), gray 7.
    "false_positive_rates": (
        {},
        ALL,
        {
            "false_positive_rate": 2 / 7,
            "false_positive_rate_of_red": 0.0,
            "false_positive_rate_of_green": 2 / 3,
            "false_positive_rate_of_gray": 0.0,
            "false_positive_rate_std": (2 / 9) ** 0.5 * 2 / 3,
            "false_positive_rate_gap": 2 / 3,
            "false_positive_equality_difference": 2 / 7 + (2 / 3 - 2 / 7) + 2 / 7,
        },
    ),
}

# --- forgetting -------------------------------------------------------------------------------------------------------

# Losses −ln p: retain .1 .2 .3 .9, test .5 .6 .8 1, forget .2 .55 .7 .95, all of class 0.
LOSSES = {"retain": [0.1, 0.2, 0.3, 0.9], "test": [0.5, 0.6, 0.8, 1.0], "forget": [0.2, 0.55, 0.7, 0.95]}
SETS = [name for name, values in LOSSES.items() for _ in values]
LOGITS, ZEROS = pairs(np.exp(-np.concatenate(list(LOSSES.values()))), [0] * 12)
ATTACKED = {"predictions": LOGITS, "references": ZEROS, "sets": SETS}
# P = (1, 0) against Q = (½, ½), M = (¾, ¼): KL(P‖M) = ln 4/3, KL(Q‖M) = ½ ln 2/3 + ½ ln 2 = ½ ln 4/3.
APART = 0.75 * math.log(4 / 3)
TWO = {"predictions": np.array([[0, -np.inf], [1.0, 3.0]]), "references": np.array([[7.0, 7.0], [2.0, 4.0]])}

FORGETTING = {
    # Forget samples are 0 and 2; one of them is right.
    "unlearning_accuracy": (
        {},
        {"predictions": [0, 1, 1, 1], "references": [0, 0, 0, 1], "sets": ["forget", "retain", "forget", "test"]},
        {"unlearning_accuracy": 1 / 2},
    ),
    # F1 of class 0: precision 1, recall 1/2 on forget; test holds class 1 alone.
    "set_accuracy": (
        {},
        {"predictions": [0, 1, 1, 1], "references": [0, 0, 1, 1], "sets": ["forget", "forget", "test", "test"]},
        {"forget_accuracy": 1 / 2, "forget_f1": 2 / 3, "test_accuracy": 1.0, "test_f1": 1.0},
    ),
    "average_gap": (
        {},
        {"predictions": [0.1, 0.9, 0.8, 0.5], "references": [0.2, 0.95, 0.7, 0.5]},
        {"average_gap": 0.25 / 4},
    ),
    "tug_of_war": (
        {},
        {"predictions": [0.1, 0.9, 0.8], "references": [0.2, 0.95, 0.7]},
        {"tug_of_war": 0.9 * 0.95 * 0.9},
    ),
    "jensen_shannon": (
        {},
        TWO,
        {"jensen_shannon_divergence": APART / 2, "jensen_shannon_distance": math.sqrt(APART / math.log(2)) / 2},
    ),
    "zero_retrain_forgetting": ({}, TWO, {"zero_retrain_forgetting": 1 - APART / math.log(2) / 2}),
    "agreement": (
        {},
        {"predictions": [[2, 1], [1, 2], [3, 0]], "references": [[1, 0], [1, 0], [9, 8]]},
        {"agreement": 2 / 3},
    ),
    # The best threshold is 0.3: three of four retain samples lie under it, no test sample, and one forget sample. In 4 + 3 +
    # 2 + 1 of 16 pairs the forget sample has the lower loss; one forget sample lies under every test sample.
    "loss_attack": (
        {},
        ATTACKED,
        {
            "loss_attack_auc": 10 / 16,
            "loss_attack_tpr_at_1_percent_fpr": 1 / 4,
            "loss_attack_tpr_at_0.1_percent_fpr": 1 / 4,
            "loss_attack_called_members": 1 / 4,
        },
    ),
    # One class, two outcomes: the score −2 (1−p) ln p falls with p as the loss does, so all ranks are those above.
    "modified_entropy_attack": (
        {},
        ATTACKED,
        {
            "modified_entropy_attack_auc": 10 / 16,
            "modified_entropy_attack_tpr_at_1_percent_fpr": 1 / 4,
            "modified_entropy_attack_tpr_at_0.1_percent_fpr": 1 / 4,
            "modified_entropy_attack_called_members": 1 / 4,
        },
    ),
    # Sure retain samples, unsure test samples; three forget samples of four are unsure.
    "entropy_attack": (
        {},
        {
            "predictions": [[9, 0]] * 5 + [[0.1, 0]] * 5 + [[9, 0]] + [[0.1, 0]] * 3,
            "sets": ["retain"] * 5 + ["test"] * 5 + ["forget"] * 4,
        },
        {"entropy_attack": 1 / 4},
    ),
    "mia_efficacy": (
        {},
        {
            "predictions": pairs([0.9] * 5 + [0.1] * 5 + [0.9] + [0.1] * 3, [0, 1] * 7)[0],
            "references": [0, 1] * 7,
            "sets": ["retain"] * 5 + ["test"] * 5 + ["forget"] * 4,
        },
        {"mia_efficacy": 3 / 4},
    ),
}
CASES = BIAS | FORGETTING


def new(name):
    """The metric of the module `name`, with the options of its case."""
    return getattr(metrics, CLASSES_OF[name])(**CASES[name][0])

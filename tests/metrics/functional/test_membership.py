"""Population attacks against scikit-learn pipelines of the tests' own and values by hand."""

import math

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from hf_unlearn.metrics.functional.membership import (
    FEATURES,
    entropy_attack,
    loss,
    membership_roc,
    mia_efficacy,
    modified_entropy,
    threshold_attack,
)
from tests.metrics.cases import pairs


@pytest.fixture(scope="module")
def outputs():
    """Three classes; retain is surer than test, forget in between."""
    rng, out = np.random.default_rng(3), {}
    for name, n, edge in (("retain", 60, 2.5), ("test", 60, 1.0), ("forget", 40, 1.7)):
        labels = rng.integers(0, 3, n)
        out[name] = (rng.normal(size=(n, 3)) + edge * np.eye(3)[labels], labels)
    return out


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def own_feature(name, logits, labels):
    p = softmax(logits)
    of_label = p[np.arange(len(p)), labels]
    if name == "modified_entropy":
        return np.array(
            [
                -(1 - row[y]) * math.log(row[y]) - sum(q * math.log(1 - q) for i, q in enumerate(row) if i != y)
                for row, y in zip(p, labels, strict=True)
            ]
        )
    return {
        "confidence": of_label,
        "correctness": (p.argmax(-1) == labels).astype(float),
        "entropy": entropy(p, axis=-1),
        "probabilities": p,
    }[name]


@pytest.mark.parametrize("feature", ["confidence", "correctness", "entropy", "modified_entropy", "probabilities"])
def test_mia_efficacy_is_the_published_classifier(outputs, feature):
    members, others, asked = (
        own_feature(feature, *outputs[s]).reshape(len(outputs[s][1]), -1) for s in ("retain", "test", "forget")
    )
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(np.vstack([members, others]), [1] * 60 + [0] * 60)
    expected = (attack.predict(asked) == 0).mean()
    assert mia_efficacy(outputs["retain"], outputs["test"], outputs["forget"], feature) == pytest.approx(expected)
    assert set(FEATURES) == {"confidence", "correctness", "entropy", "modified_entropy", "probabilities"}


def test_mia_efficacy_draws_as_many_members_as_there_are_test_samples():
    # At 0.6 lie all 10 test samples and half of the 90 retain samples: 5 of 10 drawn, but 45 of all.
    retain = pairs([0.6] * 45 + [0.95] * 45, [0] * 90)
    test, forget = pairs([0.6] * 10, [0] * 10), pairs([0.6] * 4, [0] * 4)
    assert mia_efficacy(retain, test, forget) == 1.0
    assert mia_efficacy(retain, test, forget, seed=5) == mia_efficacy(retain, test, forget, seed=5)


def test_entropy_attack_is_the_published_classifier(outputs):
    x = {name: own_feature("entropy", *pair)[:, None] for name, pair in outputs.items()}
    attack = LogisticRegression(class_weight="balanced").fit(np.vstack([x["retain"], x["test"]]), [1] * 60 + [0] * 60)
    found = entropy_attack(*(outputs[name][0] for name in ("retain", "test", "forget")))
    assert found == pytest.approx(attack.predict(x["forget"]).mean())


def test_threshold_attacks_against_scikit_learn(outputs):
    found = threshold_attack(outputs["retain"], outputs["test"], outputs["forget"])
    losses = {name: -np.log(own_feature("confidence", *pair)) for name, pair in outputs.items()}
    truth = [1] * 40 + [0] * 60
    assert found["auc"] == pytest.approx(roc_auc_score(truth, -np.concatenate([losses["forget"], losses["test"]])))
    balanced = [(losses["retain"] <= t).mean() - (losses["test"] <= t).mean() for t in losses["retain"]]
    threshold = losses["retain"][int(np.argmax(balanced))]
    assert found["called_members"] == pytest.approx((losses["forget"] <= threshold).mean())

    # Each class by itself, thresholds subtracted.
    scores = {name: own_feature("modified_entropy", *pair) for name, pair in outputs.items()}
    shifted = {name: scores[name].copy() for name in ("test", "forget")}
    for c in range(3):
        members, others = (scores[s][outputs[s][1] == c] for s in ("retain", "test"))
        gains = {t: (members <= t).mean() - (others <= t).mean() for t in sorted(members)}
        for name in shifted:
            shifted[name][outputs[name][1] == c] -= max(gains, key=gains.get)
    found = threshold_attack(outputs["retain"], outputs["test"], outputs["forget"], "modified_entropy", per_class=True)
    assert found["called_members"] == pytest.approx((shifted["forget"] <= 1e-12).mean())
    assert found["auc"] == pytest.approx(roc_auc_score(truth, -np.concatenate([shifted["forget"], shifted["test"]])))


def test_each_class_has_its_threshold_and_a_forgotten_one_the_common_one():
    # Class 0 is learned from 0.8 up, class 1 from 0.4 up; all together from 0.8 up.
    retain = pairs([0.9, 0.8, 0.5, 0.4], [0, 0, 1, 1])
    test = pairs([0.6, 0.55, 0.2, 0.1], [0, 0, 1, 1])
    forget = pairs([0.7, 0.45], [0, 1])
    assert threshold_attack(retain, test, forget, "modified_entropy", per_class=True)["called_members"] == 1 / 2
    assert threshold_attack(retain, test, forget, "modified_entropy")["called_members"] == 0
    without = pairs([0.9, 0.8], [0, 0])
    asked = pairs([0.85, 0.45], [1, 1])
    assert threshold_attack(without, test, asked, "modified_entropy", per_class=True)["called_members"] == 1 / 2


def test_modified_entropy_has_its_known_values():
    p = np.log([[0.7, 0.2, 0.1]])
    assert modified_entropy(p, [0]) == pytest.approx(-0.3 * np.log(0.7) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9))
    assert modified_entropy(p, [1]) == pytest.approx(-0.8 * np.log(0.2) - 0.7 * np.log(0.3) - 0.1 * np.log(0.9))
    sure = modified_entropy([[60.0, 0.0], [50.0, 0.0], [0.0, 60.0]], [0, 0, 0])
    assert sure[0] == pytest.approx(2 * math.exp(-120), rel=1e-6, abs=0), "saturated outputs keep their order"
    assert sure[0] < sure[1] < sure[2] == pytest.approx(120)
    assert loss([[60.0, 0.0]], [0]) == pytest.approx(math.exp(-60), rel=1e-6, abs=0)
    never = [[0.0, -np.inf], [-np.inf, 0.0]]
    assert np.isfinite(modified_entropy(never, [0, 0])).all()
    assert np.isfinite(loss(never, [0, 0])).all()


def test_roc_counts_pairs_and_allows_the_false_alarms_it_names():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 300).round(1), rng.normal(0, 1, 2000).round(1)
    found = membership_roc(members, others)
    wins = (members[:, None] > others).mean() + (members[:, None] == others).mean() / 2
    assert found["auc"] == pytest.approx(wins)
    for percent in ("1", "0.1"):
        allowed = [t for t in np.unique(others) if (others >= t).mean() <= float(percent) / 100]
        assert found[f"tpr_at_{percent}_percent_fpr"] == pytest.approx((members >= min(allowed)).mean())


def test_roc_keeps_the_points_of_a_straight_line():
    same = np.arange(1000)
    found = membership_roc(same, same)
    assert (found["tpr_at_1_percent_fpr"], found["tpr_at_0.1_percent_fpr"]) == pytest.approx((0.01, 0.001))


def test_an_unknown_score_or_feature_is_named():
    sets = [pairs([0.9], [0])] * 3
    with pytest.raises(ValueError, match="`score='entropy'` is not known"):
        threshold_attack(*sets, score="entropy")
    with pytest.raises(ValueError, match="`feature='logits'` is not known"):
        mia_efficacy(*sets, feature="logits")

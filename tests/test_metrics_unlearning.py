"""Unlearning measures against values by hand and against scikit-learn pipelines of the tests' own."""

import math
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, mutual_info_score, roc_auc_score
from sklearn.svm import SVC

import hf_unlearn.metrics as metrics
from hf_unlearn import GradientAscent
from hf_unlearn.metrics.functional.distance import agreement, average_gap, jensen_shannon, tug_of_war
from hf_unlearn.metrics.functional.membership import (
    FEATURES,
    loss,
    membership_roc,
    mia_efficacy,
    modified_entropy,
    threshold_attack,
)
from tests.support.data import class_split, data_for
from tests.support.runs import trainer_for

pytestmark = pytest.mark.usefixtures("evaluate_cache")

FOLDER = Path(metrics.__path__[0])
LN2 = math.log(2)


def pairs(confidences, labels):
    """Log-probabilities of two classes, of which the true one has `confidences`."""
    p, y = np.array(confidences), np.array(labels)
    return np.log(np.where(y[:, None] == [0, 1], p[:, None], 1 - p[:, None])), y


def hard(classes, n=3):
    """Logits that say one class for certain."""
    return np.where(np.eye(n)[np.array(classes)] > 0, 0.0, -np.inf)


# Losses −ln p: retain .1 .2 .3 .9, test .5 .6 .8 1, forget .2 .55 .7 .95, all of class 0.
LOSSES = {"retain": [0.1, 0.2, 0.3, 0.9], "test": [0.5, 0.6, 0.8, 1.0], "forget": [0.2, 0.55, 0.7, 0.95]}
SETS = [name for name, values in LOSSES.items() for _ in values]
LOGITS, ZEROS = pairs(np.exp(-np.concatenate(list(LOSSES.values()))), [0] * 12)
# P = (1, 0) against Q = (½, ½), M = (¾, ¼): KL(P‖M) = ln 4/3, KL(Q‖M) = ½ ln 2/3 + ½ ln 2 = ½ ln 4/3.
APART = 0.75 * math.log(4 / 3)
TWO = {"predictions": np.array([[0, -np.inf], [1.0, 3.0]]), "references": np.array([[7.0, 7.0], [2.0, 4.0]])}

CASES = {
    # Forget samples are 0 and 2; one of them is right.
    "unlearning_accuracy": (
        {"predictions": [0, 1, 1, 1], "references": [0, 0, 0, 1], "sets": ["forget", "retain", "forget", "test"]},
        {"unlearning_accuracy": 1 / 2},
    ),
    # F1 of class 0: precision 1, recall 1/2 on forget; test holds class 1 alone.
    "set_accuracy": (
        {"predictions": [0, 1, 1, 1], "references": [0, 0, 1, 1], "sets": ["forget", "forget", "test", "test"]},
        {"forget_accuracy": 1 / 2, "forget_f1": 2 / 3, "test_accuracy": 1.0, "test_f1": 1.0},
    ),
    "average_gap": (
        {"predictions": [0.1, 0.9, 0.8, 0.5], "references": [0.2, 0.95, 0.7, 0.5]},
        {"average_gap": 0.25 / 4},
    ),
    "tug_of_war": ({"predictions": [0.1, 0.9, 0.8], "references": [0.2, 0.95, 0.7]}, {"tug_of_war": 0.9 * 0.95 * 0.9}),
    "jensen_shannon": (
        TWO,
        {"jensen_shannon_divergence": APART / 2, "jensen_shannon_distance": math.sqrt(APART / LN2) / 2},
    ),
    "zero_retrain_forgetting": (TWO, {"zero_retrain_forgetting": 1 - APART / LN2 / 2}),
    "agreement": (
        {"predictions": [[2, 1], [1, 2], [3, 0]], "references": [[1, 0], [1, 0], [9, 8]]},
        {"agreement": 2 / 3},
    ),
    # Best threshold 0.3: three of four retain samples, no test sample. Forget: one under it. Of 16 pairs forget is lower in
    # 4 + 3 + 2 + 1; one forget sample lies under every test sample.
    "loss_attack": (
        {"predictions": LOGITS, "references": ZEROS, "sets": SETS},
        {
            "loss_attack_auc": 10 / 16,
            "loss_attack_tpr_at_1_percent_fpr": 1 / 4,
            "loss_attack_tpr_at_0.1_percent_fpr": 1 / 4,
            "loss_attack_called_members": 1 / 4,
        },
    ),
    # One class, two outcomes: the score −2 (1−p) ln p falls with p as the loss does, so all ranks are those above.
    "modified_entropy_attack": (
        {"predictions": LOGITS, "references": ZEROS, "sets": SETS},
        {
            "modified_entropy_attack_auc": 10 / 16,
            "modified_entropy_attack_tpr_at_1_percent_fpr": 1 / 4,
            "modified_entropy_attack_tpr_at_0.1_percent_fpr": 1 / 4,
            "modified_entropy_attack_called_members": 1 / 4,
        },
    ),
    # Sure retain samples, unsure test samples; three forget samples of four are unsure.
    "entropy_attack": (
        {
            "predictions": [[9, 0]] * 5 + [[0.1, 0]] * 5 + [[9, 0]] + [[0.1, 0]] * 3,
            "sets": ["retain"] * 5 + ["test"] * 5 + ["forget"] * 4,
        },
        {"entropy_attack": 1 / 4},
    ),
    "mia_efficacy": (
        {
            "predictions": pairs([0.9] * 5 + [0.1] * 5 + [0.9] + [0.1] * 3, [0, 1] * 7)[0],
            "references": [0, 1] * 7,
            "sets": ["retain"] * 5 + ["test"] * 5 + ["forget"] * 4,
        },
        {"mia_efficacy": 3 / 4},
    ),
}
CLASSES_OF = {module: name for name, module in metrics._NAMES.items()}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed_values_by_class_by_path_and_combined(name, no_network):
    rows, expected = CASES[name]
    metric = getattr(metrics, CLASSES_OF[name])()
    assert metric.compute(**rows) == pytest.approx(expected)
    loaded = evaluate.load(str(FOLDER / f"{name}.py"))
    assert type(loaded).__name__ == CLASSES_OF[name]
    assert loaded.compute(**{k: torch.as_tensor(v) if k != "sets" else v for k, v in rows.items()}) == pytest.approx(
        expected, rel=1e-6
    )
    both = evaluate.combine([loaded, metric], force_prefix=True)
    for start in (0, 1):
        both.add_batch(**{k: v[start::2] for k, v in rows.items()})
    combined = both.compute()
    assert combined == pytest.approx({f"{name}_{i}_{k}": v for k, v in expected.items() for i in (0, 1)})


def test_attacks_combine_and_share_their_columns(no_network):
    attacks = [metrics.EntropyAttack(), metrics.MIAEfficacy(feature="entropy"), metrics.LossAttack()]
    rows = {"predictions": LOGITS, "references": ZEROS, "sets": SETS}
    found = evaluate.combine(attacks).compute(**rows)
    assert found["loss_attack_auc"] == pytest.approx(10 / 16)
    assert found["mia_efficacy"] == metrics.MIAEfficacy().compute(**rows, feature="entropy")["mia_efficacy"]
    assert found["entropy_attack"] == metrics.EntropyAttack().compute(predictions=LOGITS, sets=SETS)["entropy_attack"]


def test_a_trainer_computes_what_the_report_says(tmp_path):
    split, test = class_split("vit"), data_for("vit", 36, seed=7)
    trainer = trainer_for("vit", tmp_path, GradientAscent(), split=split, max_steps=2, trust_region=0.01)
    trainer.train()
    parts = {"forget": split.forget, "retain": split.retain, "test": test}
    sets = [name for name, part in parts.items() for _ in range(len(part))]
    answers, outputs = metrics.SetAccuracy(), evaluate.combine([metrics.EntropyAttack(), metrics.LossAttack()])

    def compute_metrics(evaluated):
        logits, labels = evaluated
        found = answers.compute(predictions=logits.argmax(-1), references=labels, sets=sets)
        return found | outputs.compute(predictions=logits, references=labels, sets=sets)

    trainer.compute_metrics = compute_metrics
    measured = trainer.evaluate(datasets.concatenate_datasets(list(parts.values())))
    reported = trainer.report(test_dataset=test).models["unlearned"]
    for name in parts:
        assert measured[f"eval_{name}_accuracy"] == pytest.approx(reported[f"{name}_accuracy"])
        assert measured[f"eval_{name}_f1"] == pytest.approx(reported[f"{name}_f1"])
    assert measured["eval_entropy_attack"] == pytest.approx(reported["membership_attack"])
    assert 0 <= measured["eval_loss_attack_auc"] <= 1


# --- against pipelines of the tests' own ------------------------------------------------------------------------------


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
    sets = [name for name, (_, labels) in outputs.items() for _ in labels]
    logits = np.vstack([logits for logits, _ in outputs.values()])
    measured = metrics.EntropyAttack().compute(predictions=logits, sets=sets)
    assert measured["entropy_attack"] == pytest.approx(attack.predict(x["forget"]).mean())


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


@pytest.mark.parametrize("with_labels", [False, True])
def test_information_of_certain_answers_is_that_of_counts(with_labels):
    rng = np.random.default_rng(1)
    groups, labels = rng.choice(["a", "b"], 120), rng.integers(0, 3, 120)
    answers = np.where((groups == "a") & (rng.random(120) < 0.6), 0, labels)
    rows = {"predictions": hard(answers), "attributes": groups}
    expected = mutual_info_score(answers, groups)
    if with_labels:
        rows["references"] = labels
        cells = [labels == y for y in range(3)]
        expected = sum(c.mean() * mutual_info_score(answers[c], groups[c]) for c in cells)
    for metric in (metrics.InformationAudit(resamples=50), evaluate.load(str(FOLDER / "information_audit.py"))):
        found = metric.compute(**rows, resamples=50)
        assert found["information"] == pytest.approx(expected)
        assert found["information_low"] <= found["information_high"]
        assert found["information"] > found["information_null_high"] > found["information_null"] > 0
        assert 0 < found["information_normalised"] < 1


def test_forget_information_of_certain_answers_is_that_of_counts():
    retain, forget, test = [0, 0, 0, 1, 1, 1], [2, 2], [1, 2, 0]
    rows = {"predictions": hard(forget + retain + test), "sets": ["forget"] * 2 + ["retain"] * 6 + ["test"] * 3}
    expected = mutual_info_score(forget + retain + retain, [0] * 8 + [1] * 6)
    for metric in (metrics.ForgetInformation(seed=4), evaluate.load(str(FOLDER / "forget_information.py"))):
        found = metric.compute(**rows, resamples=50)
        assert found["forget_information"] == pytest.approx(expected)
        assert found["forget_information_normalised"] == pytest.approx(1)


def test_two_sided_distances_count_over_forgetting():
    retrained = [0.9, 0.9, 0.9]
    assert tug_of_war([0.8, 0.9, 0.9], retrained) == pytest.approx(tug_of_war([1.0, 0.9, 0.9], retrained))
    assert average_gap([0.8, 0.9, 0.9], retrained) == pytest.approx(average_gap([1.0, 0.9, 0.9], retrained))
    assert tug_of_war(retrained, retrained) == 1
    assert average_gap(retrained, retrained) == 0


def test_half_precision_and_gradients_do_not_matter():
    logits = torch.tensor([[2.0, 1.0], [0.5, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    assert jensen_shannon(logits, logits) == 0
    assert agreement(logits, [[2.0, 1.0], [0.5, 4.0]]) == 1


def test_macro_f1_counts_the_classes_among_the_labels():
    predicted, true = [0, 2, 1, 1, 0], [0, 0, 1, 1, 1]
    found = metrics.SetAccuracy().compute(predictions=predicted, references=true, sets=["test"] * 5)
    assert found["test_f1"] == pytest.approx(f1_score(true, predicted, labels=[0, 1], average="macro"))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unlearning_accuracy", {"sets": ["retain"] * 4}, "`sets` has no sample of 'forget'"),
        ("unlearning_accuracy", {"predictions": [0, 1, 1]}, "`references` has 4 entries and `predictions` 3"),
        ("set_accuracy", {"sets": ["forget", "train", "test", "test"]}, "`sets` holds 'train'. Name each sample's set"),
        ("set_accuracy", {"sets": ["forget", None, "test", "test"]}, "`sets` holds missing values"),
        ("average_gap", {"predictions": [0.1, np.nan, 0.8, 0.5]}, "`predictions` must be finite numbers"),
        ("average_gap", {"references": [0.1, 0.2]}, "`references` has 2 entries and `predictions` 4"),
        ("tug_of_war", {"references": [20, 95, 70]}, r"`references` must be accuracies in \[0, 1\].*by 100"),
        ("jensen_shannon", {"references": [[1, 2, 3]] * 2}, r"`references` has shape \(2, 3\) and `predictions` \(2, 2\)"),
        ("jensen_shannon", {"references": [[1, 2], [3]]}, "`references` has rows of unequal length"),
        ("agreement", {"predictions": [0, 1, 2]}, r"`predictions` must be logits of shape \(samples, classes\)"),
        ("zero_retrain_forgetting", {"predictions": [[1, np.nan]] * 2}, "`predictions` holds NaN or infinite logits"),
        ("entropy_attack", {"sets": ["retain"] * 7 + ["forget"] * 7}, "`sets` has no sample of 'test'"),
        ("entropy_attack", {"sets": None}, "`sets` is missing"),
        ("mia_efficacy", {"feature": "logits"}, "`feature='logits'` is not known. Choose one of 'confidence'"),
        ("mia_efficacy", {"references": [0, 2] * 7}, "`references` holds class 2, `predictions` has 2 classes"),
        ("loss_attack", {"predictions": [[np.inf, 0]] * 12}, "`predictions` holds NaN or infinite logits"),
        ("loss_attack", {"per_class": True}, "`per_class` is nothing that LossAttack reads"),
        ("modified_entropy_attack", {"references": [0.5] * 12}, "`references` must be class ids"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_what_to_do(name, changes, message):
    with pytest.raises(ValueError, match=message):
        getattr(metrics, CLASSES_OF[name])().compute(**CASES[name][0] | changes)


def test_information_needs_something_to_tell():
    rows = {"predictions": hard([0, 1, 2]), "attributes": ["a", "b", "a"]}
    for changes, message in (
        ({"attributes": ["a"] * 3}, "`attributes` is 'a' in every sample"),
        ({"attributes": ["a", "b", None]}, "`attributes` holds missing values"),
        ({"references": [0, 1]}, "`references` has 2 entries"),
        ({"level": 1.5}, "`level` must lie strictly between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.InformationAudit().compute(**rows | changes)
    with pytest.raises(ValueError, match="`sets` has no sample of 'forget'"):
        metrics.ForgetInformation().compute(predictions=hard([0, 1, 2]), sets=["retain"] * 3)
    with pytest.raises(ValueError, match="`score='entropy'` is not known"):
        threshold_attack(*[(hard([0]), [0])] * 3, score="entropy")

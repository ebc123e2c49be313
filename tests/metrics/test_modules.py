"""Every `evaluate` module against values computed by hand: by class, by path, combined, in a Trainer; and what it refuses."""

from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

import hf_unlearn.metrics as metrics
from hf_unlearn import FineTune, GradientAscent, UnlearningTrainer
from tests.metrics.cases import ATTACKED, CASES, CLASSES_OF, COLORS, POINTS, TRUE, certain, new
from tests.support.data import class_split, data_for, processing_class
from tests.support.models import trained
from tests.support.runs import arguments, trainer_for

pytestmark = pytest.mark.usefixtures("evaluate_cache")

FOLDER = Path(metrics.__path__[0])


@pytest.mark.parametrize("name", CASES)
def test_hand_computed_values_by_class_by_path_and_combined(name, no_network):
    options, rows, expected = CASES[name]
    metric = new(name)
    assert metric.compute(**rows) == pytest.approx(expected)
    loaded = evaluate.load(str(FOLDER / f"{name}.py"), **options)
    assert type(loaded).__name__ == CLASSES_OF[name]
    tensors = {k: v if k in ("sets", "attributes") else torch.as_tensor(v) for k, v in rows.items()}
    assert loaded.compute(**tensors) == pytest.approx(expected, rel=1e-6)
    assert loaded.compute(**rows) == pytest.approx(expected), "the rows of the first call are gone"
    both = evaluate.combine([loaded, metric], force_prefix=True)
    for start in (0, 1):
        both.add_batch(**{k: v[start::2] for k, v in rows.items()})
    combined = both.compute()
    assert combined == pytest.approx({f"{name}_{i}_{k}": v for k, v in expected.items() for i in (0, 1)})


def test_every_module_has_a_case():
    # The two information metrics have tests of their own below.
    assert {*CASES, "information_audit", "forget_information"} == set(metrics._NAMES.values())


def test_attacks_combine_and_share_their_columns(no_network):
    attacks = [metrics.EntropyAttack(), metrics.MIAEfficacy(feature="entropy"), metrics.LossAttack()]
    unlabeled = {k: ATTACKED[k] for k in ("predictions", "sets")}
    found = evaluate.combine(attacks).compute(**ATTACKED)
    assert found["loss_attack_auc"] == pytest.approx(10 / 16)
    assert found["mia_efficacy"] == metrics.MIAEfficacy().compute(**ATTACKED, feature="entropy")["mia_efficacy"]
    assert found["entropy_attack"] == metrics.EntropyAttack().compute(**unlabeled)["entropy_attack"]


def test_a_trainer_computes_them(tmp_path):
    test = data_for("vit", 24, seed=3)
    groups = np.array(test["group"])
    together = evaluate.combine([metrics.CramersV(), metrics.WorstGroupAccuracy()])

    def compute_metrics(evaluated):
        return together.compute(
            predictions=evaluated.predictions.argmax(-1), references=evaluated.label_ids, attributes=groups
        )

    model = trained("vit")
    trainer = UnlearningTrainer(
        model=model,
        args=arguments(tmp_path),
        method=FineTune(),
        forget_dataset=data_for("vit", 8),
        retain_dataset=data_for("vit", 8, seed=2),
        eval_dataset=test,
        processing_class=processing_class("vit"),
        compute_metrics=compute_metrics,
    )
    measured = trainer.evaluate()
    with torch.no_grad():
        predicted = model.eval()(pixel_values=torch.tensor(np.array(test["pixel_values"]))).logits.argmax(-1).numpy()
    right = predicted == np.array(test["label"])
    cells = [right[(groups == g) & (np.array(test["label"]) == y)] for g in (0, 1) for y in range(4)]
    assert measured["eval_worst_group_accuracy"] == pytest.approx(min(c.mean() for c in cells if len(c)))
    assert measured["eval_worst_attribute_accuracy"] == pytest.approx(min(right[groups == g].mean() for g in (0, 1)))
    assert 0 <= measured["eval_cramers_v"] <= 1


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


@pytest.mark.parametrize("with_labels", [False, True])
def test_information_of_certain_answers_is_that_of_counts(with_labels):
    rng = np.random.default_rng(1)
    groups, labels = rng.choice(["a", "b"], 120), rng.integers(0, 3, 120)
    answers = np.where((groups == "a") & (rng.random(120) < 0.6), 0, labels)
    rows = {"predictions": certain(answers), "attributes": groups}
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
    rows = {"predictions": certain(forget + retain + test), "sets": ["forget"] * 2 + ["retain"] * 6 + ["test"] * 3}
    expected = mutual_info_score(forget + retain + retain, [0] * 8 + [1] * 6)
    for metric in (metrics.ForgetInformation(seed=4), evaluate.load(str(FOLDER / "forget_information.py"))):
        found = metric.compute(**rows, resamples=50)
        assert found["forget_information"] == pytest.approx(expected)
        assert found["forget_information_normalised"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bias_following", {"references": TRUE[:9]}, "`references` has 9 entries and `predictions` 10"),
        ("cramers_v", {"attributes": COLORS[:9]}, "`attributes` has 9 entries and `predictions` 10"),
        ("bias_following", {"attributes": None}, "`attributes` is missing: bias_following reads"),
        ("bias_following", {"attributes": ["red"] * 9 + ["blue"]}, "`mapping` lacks 'blue'"),
        ("bias_following", {"mapping": None}, "`attributes` holds 'red' where a label is needed.*pass `mapping`"),
        ("bias_following", {"mapping": {**POINTS, "gray": "none"}}, "`mapping` holds 'none' where a label is needed"),
        ("bias_following", {"mapping": dict.fromkeys(POINTS)}, "`attributes` never points away from the label"),
        ("bias_following", {"predictions": [0.7] * 10}, "`predictions` must be class ids, .* got float64"),
        ("bias_following", {"predictions": np.eye(3)[TRUE]}, r"`predictions` must be class ids, .*shape \(10, 3\)"),
        ("cramers_v", {"predictions": [np.nan] * 10}, "`predictions` must be class ids"),
        ("worst_group_accuracy", {"references": [-100, *TRUE[1:]]}, "`references` holds -100"),
        ("aligned_conflicting_gap", {"mapping": {**POINTS, "red": 3, "green": 3}}, "leaves no bias-aligned sample"),
        ("demographic_parity", {"attributes": [*COLORS[:9], None]}, "`attributes` holds missing values"),
        ("worst_group_accuracy", {"attributes": [*range(9), np.nan]}, "`attributes` holds missing values"),
        ("worst_group_accuracy", {"predictions": [], "references": [], "attributes": []}, "`predictions` is empty"),
        ("demographic_parity", {"attributes": ["red"] * 10}, "`attributes` is 'red' in every sample"),
        ("equalised_odds", {"attributes": TRUE}, "`attributes` shares no label between two of its values"),
        ("false_positive_rates", {"positive": 2}, "no sample of another class than `positive=2` where its value is 'gray'"),
        ("cramers_v", {"positive": 2}, "`positive` is nothing that CramersV reads.*options none"),
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
        new(name).compute(**CASES[name][1] | changes)


def test_information_needs_something_to_tell():
    rows = {"predictions": certain([0, 1, 2]), "attributes": ["a", "b", "a"]}
    for changes, message in (
        ({"attributes": ["a"] * 3}, "`attributes` is 'a' in every sample"),
        ({"attributes": ["a", "b", None]}, "`attributes` holds missing values"),
        ({"references": [0, 1]}, "`references` has 2 entries"),
        ({"level": 1.5}, "`level` must lie strictly between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.InformationAudit().compute(**rows | changes)
    with pytest.raises(ValueError, match="`sets` has no sample of 'forget'"):
        metrics.ForgetInformation().compute(predictions=certain([0, 1, 2]), sets=["retain"] * 3)

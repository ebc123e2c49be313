"""Metrics as `evaluate` modules: the ways to reach them, what they refuse, what they leave on disk; and the bias measures."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

import hf_unlearn.metrics as metrics
from hf_unlearn import FineTune, UnlearningTrainer
from hf_unlearn.metrics.functional.fairness import bias_labels, group_accuracies
from tests.support.data import data_for, processing_class
from tests.support.models import trained
from tests.support.runs import arguments

pytestmark = pytest.mark.usefixtures("evaluate_cache")

FOLDER = Path(metrics.__path__[0])

# Ten samples of three classes. The colour points to a class: red to 0, green to 1; grey to none.
PREDICTED = [0, 0, 1, 0, 1, 1, 2, 2, 0, 1]
TRUE = [0, 0, 1, 1, 0, 1, 2, 2, 2, 2]
COLOURS = ["red", "red", "red", "red", "green", "green", "green", "grey", "red", "green"]
POINTS = {"red": 0, "green": 1, "grey": None}
ROWS = {"predictions": PREDICTED, "references": TRUE, "attributes": COLOURS}

# By hand. Against the colour: samples 2, 3, 4, 6, 8, 9; the colour is followed in 3, 4, 8, 9.
# Aligned are 0, 1, 5, all right; of the six conflicting ones 2 and 6 are right.
EXPECTED = {
    "bias_following": {"bias_following": 4 / 6},
    "aligned_conflicting_gap": {
        "aligned_accuracy": 1.0,
        "conflicting_accuracy": 2 / 6,
        "aligned_conflicting_gap": 1 - 2 / 6,
    },
    # red × 2 and green × 0, × 2: red×0 2/2, red×1 1/2, red×2 0/1, green×0 0/1, green×1 1/1, green×2 1/2, grey×2 1/1
    "worst_group_accuracy": {
        "worst_group_accuracy": 0.0,
        "worst_group_samples": 1,
        "worst_attribute_accuracy": 2 / 4,  # green: 5 and 6 of 4, 5, 6, 9
        "worst_attribute_samples": 4,
    },
    # Predicted 0, 1, 2: red 4/5, 1/5, 0; green 0, 3/4, 1/4; grey 0, 0, 1.
    "demographic_parity": {"demographic_parity_gap": 1.0},
    # Label 0: red says 0 always, green 1 always. Label 1: red 0 or 1, green 1. Label 2: red 0, green 2 or 1, grey 2.
    "equalised_odds": {"equalised_odds_gap": 1.0, "equal_opportunity_gap": 1.0},
    # Counts (0, 1, 2): red (4, 1, 0), green (0, 3, 1), grey (0, 0, 1); n = 10, columns 4, 4, 2.
    # χ² = n (Σ O² / (row × column) − 1) = 10 (16/20 + 1/20 + 9/16 + 1/8 + 1/2 − 1) = 10.375; V² = 10.375 / (10 × 2).
    "cramers_v": {"cramers_v": (10.375 / 20) ** 0.5},
    # Not of class 1: red 0, 1, 8 (none says 1), green 4, 6, 9 (two do), grey 7.
    "false_positive_rates": {
        "false_positive_rate": 2 / 7,
        "false_positive_rate_of_red": 0.0,
        "false_positive_rate_of_green": 2 / 3,
        "false_positive_rate_of_grey": 0.0,
        "false_positive_rate_std": (2 / 9) ** 0.5 * 2 / 3,
        "false_positive_rate_gap": 2 / 3,
        "false_positive_equality_difference": 2 / 7 + (2 / 3 - 2 / 7) + 2 / 7,
    },
}
OPTIONS = {"bias_following": {"mapping": POINTS}, "aligned_conflicting_gap": {"mapping": POINTS}}
CLASSES_OF = {module: name for name, module in metrics._NAMES.items()}


def new(name, **changes):
    return getattr(metrics, CLASSES_OF[name])(**{**OPTIONS.get(name, {}), **changes})


def rows_for(metric, **changes):
    return {k: v for k, v in {**ROWS, **changes}.items() if k in metric.columns}


# --- ways to reach a metric -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_hand_computed_values_by_class_and_by_path(name, no_network):
    metric = new(name)
    assert metric.compute(**rows_for(metric)) == pytest.approx(EXPECTED[name])
    loaded = evaluate.load(str(FOLDER / f"{name}.py"), **OPTIONS.get(name, {}))
    assert type(loaded).__name__ == CLASSES_OF[name]
    assert loaded.compute(**rows_for(loaded)) == pytest.approx(EXPECTED[name])
    assert loaded.compute(**rows_for(loaded)) == pytest.approx(EXPECTED[name]), "the rows of the first call are gone"


def test_combined_they_give_what_each_gives(no_network):
    both = evaluate.combine([new("cramers_v"), str(FOLDER / "equalised_odds.py"), new("bias_following")])
    expected = EXPECTED["cramers_v"] | EXPECTED["equalised_odds"] | EXPECTED["bias_following"]
    assert both.compute(**ROWS) == pytest.approx(expected)
    for start in (0, 4, 8):
        both.add_batch(**{k: v[start : start + 4] for k, v in ROWS.items()})
    assert both.compute() == pytest.approx(expected)
    for p, y, a in zip(PREDICTED, TRUE, COLOURS, strict=True):
        both.add(prediction=p, reference=y, attributes=a)
    assert both.compute() == pytest.approx(expected)


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


@pytest.mark.parametrize("name", metrics._NAMES.values())
def test_each_says_what_it_reads_and_how_to_read_it(name):
    metric = getattr(metrics, CLASSES_OF[name])()
    assert metric.name == name
    assert list(metric.features) == list(metric.columns)
    text = metric.inputs_description
    for column in metric.columns:
        assert f"`{column}`" in text
    for word in ("Output:", "[", "Reading: "):
        assert word in text
    assert "retrained model" in text.partition("Reading: ")[2]
    assert metric.description
    assert any(c.isdigit() for c in metric.citation), "a source has a year or a number"
    assert "lower is better" not in text


def test_every_file_of_the_folder_is_public():
    files = {f.stem for f in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert files == set(metrics._NAMES.values())
    assert dir(metrics) == sorted(metrics._NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        metrics.Nothing  # noqa: B018


# --- what stays behind ------------------------------------------------------------------------------------------------


def test_nothing_is_written_but_the_code(evaluate_cache, tmp_path):
    before = {f for f in evaluate_cache.rglob("*") if f.is_file()}
    loaded = evaluate.load(str(FOLDER / "cramers_v.py"), cache_dir=str(tmp_path), keep_in_memory=False)
    secret = [f"secret-{i % 3}" for i in range(10)]
    loaded.add_batch(predictions=PREDICTED, attributes=secret)
    during = {f for folder in (evaluate_cache, tmp_path) for f in folder.rglob("*") if f.is_file()} - before
    assert all(b"secret" not in f.read_bytes() for f in during)
    assert {f.suffix for f in during} <= {".py", ".pyc", ".json", ".lock"}
    assert len(loaded) == 10
    loaded.compute()
    assert len(loaded) == 0


def test_rows_are_let_go_of_when_computing_fails():
    metric = metrics.CramersV()
    with pytest.raises(ValueError, match="`attributes` is 'red' in every sample"):
        metric.compute(predictions=[0, 1], attributes=["red", "red"])
    assert len(metric) == 0
    assert metric.compute(predictions=[0, 1], attributes=["red", "blue"]) == {"cramers_v": pytest.approx(1.0)}


def test_batches_of_tensors_arrays_and_lists_join_up():
    metric = new("bias_following")
    metric.add_batch(
        predictions=torch.tensor(PREDICTED[:4]), references=np.array(TRUE[:4]), attributes=np.array(COLOURS[:4])
    )
    metric.add_batch(predictions=PREDICTED[4:8], references=torch.tensor(TRUE[4:8]), attributes=COLOURS[4:8])
    metric.add_batch(predictions=torch.tensor(PREDICTED[8:]), references=np.array(TRUE[8:]), attributes=COLOURS[8:])
    assert metric.compute() == pytest.approx(EXPECTED["bias_following"])


def test_a_batch_is_what_it_was_when_added():
    metric, buffer = metrics.CramersV(), np.array([0, 0])
    for start in (0, 1):
        buffer[:] = start
        metric.add_batch(predictions=buffer, attributes=torch.tensor([start, start]))
    assert metric.compute() == {"cramers_v": pytest.approx(1.0)}
    mixed = metrics.BiasFollowing(mapping={0: 0, "b": 1})
    mixed.add_batch(predictions=[0], references=[1], attributes=np.array([0]))
    mixed.add_batch(predictions=[0], references=[0], attributes=["b"])
    assert mixed.compute() == {"bias_following": 1 / 2}
    pointed = metrics.BiasFollowing()
    for label in (1, None, -1):
        pointed.add(prediction=1, reference=0, attributes=label)
    assert pointed.compute() == {"bias_following": 1.0}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bias_following", {"references": TRUE[:9]}, "`references` has 9 entries and `predictions` 10"),
        ("cramers_v", {"attributes": COLOURS[:9]}, "`attributes` has 9 entries and `predictions` 10"),
        ("bias_following", {"attributes": None}, "`attributes` is missing: bias_following reads"),
        ("bias_following", {"attributes": ["red"] * 9 + ["blue"]}, "`mapping` lacks 'blue'"),
        ("bias_following", {"mapping": None}, "`attributes` holds 'red' where a label is needed.*pass `mapping`"),
        ("bias_following", {"mapping": {**POINTS, "grey": "none"}}, "`mapping` holds 'none' where a label is needed"),
        ("bias_following", {"mapping": dict.fromkeys(POINTS)}, "`attributes` never points away from the label"),
        ("bias_following", {"predictions": [0.7] * 10}, "`predictions` must be class ids, .* got float64"),
        ("bias_following", {"predictions": np.eye(3)[TRUE]}, r"`predictions` must be class ids, .*shape \(10, 3\)"),
        ("cramers_v", {"predictions": [np.nan] * 10}, "`predictions` must be class ids"),
        ("worst_group_accuracy", {"references": [-100, *TRUE[1:]]}, "`references` holds -100"),
        ("aligned_conflicting_gap", {"mapping": {**POINTS, "red": 3, "green": 3}}, "leaves no bias-aligned sample"),
        ("demographic_parity", {"attributes": [*COLOURS[:9], None]}, "`attributes` holds missing values"),
        ("worst_group_accuracy", {"attributes": [*range(9), np.nan]}, "`attributes` holds missing values"),
        ("worst_group_accuracy", {"predictions": [], "references": [], "attributes": []}, "`predictions` is empty"),
        ("demographic_parity", {"attributes": ["red"] * 10}, "`attributes` is 'red' in every sample"),
        ("equalised_odds", {"attributes": TRUE}, "`attributes` shares no label between two of its values"),
        ("false_positive_rates", {"positive": 2}, "no sample of another class than `positive=2` where its value is 'grey'"),
        ("cramers_v", {"positive": 2}, "`positive` is nothing that CramersV reads.*options none"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_what_to_do(name, changes, message):
    metric = new(name)
    with pytest.raises(ValueError, match=message):
        metric.compute(**rows_for(metric) | changes)


def test_a_mistyped_option_or_a_second_process_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`maping` is nothing that BiasFollowing reads.*its options `mapping`"):
        metrics.BiasFollowing(maping=POINTS)
    with pytest.raises(ValueError, match=r"`num_process=2`.*Gather them first"):
        metrics.BiasFollowing(num_process=2, process_id=1)
    metric = metrics.CramersV()
    with pytest.raises(ValueError, match="`predictions` is missing"):
        metric.compute()
    with pytest.raises(ValueError, match="`colours` is nothing"):
        metric.add_batch(predictions=PREDICTED, colours=COLOURS)


# --- bias measures ----------------------------------------------------------------------------------------------------


def test_attributes_may_be_the_labels_they_point_to():
    labels = [-1 if POINTS[c] is None else POINTS[c] for c in COLOURS]
    for values in (labels, [POINTS[c] for c in COLOURS], np.array(labels), torch.tensor(labels)):
        rows = {"predictions": PREDICTED, "references": TRUE, "attributes": values}
        assert metrics.BiasFollowing().compute(**rows) == pytest.approx(EXPECTED["bias_following"])
    assert bias_labels([3, 7, 3], {3: 1, 7: -1}).tolist() == [1, -1, 1]


def test_options_are_of_the_constructor_or_of_the_call():
    rows = {k: ROWS[k] for k in ("predictions", "references", "attributes")}
    assert metrics.BiasFollowing().compute(**rows, mapping=POINTS) == new("bias_following").compute(**rows)
    only_red = metrics.BiasFollowing(mapping=POINTS).compute(**rows, mapping={**POINTS, "green": None})
    assert only_red == {"bias_following": pytest.approx(2 / 3)}, "of 2, 3 and 8 the last two follow red"


def test_independent_columns_have_no_association_and_equal_ones_the_whole():
    predicted, attribute = np.repeat([0, 1, 2], 4), np.tile(["a", "b"], 6)
    assert metrics.CramersV().compute(predictions=predicted, attributes=attribute)["cramers_v"] == pytest.approx(0)
    assert metrics.CramersV().compute(predictions=predicted, attributes=predicted)["cramers_v"] == pytest.approx(1)
    assert metrics.CramersV().compute(predictions=[1] * 12, attributes=attribute)["cramers_v"] == 0


def test_groups_have_their_accuracies():
    assert group_accuracies(PREDICTED, TRUE, COLOURS) == pytest.approx({"green": 2 / 4, "grey": 1.0, "red": 3 / 5})
    assert list(group_accuracies([1, 1, 0], [1, 0, 0], [10, 9, 10])) == [9, 10]


@pytest.mark.parametrize("groups", [["a", "a", "b", "b", "b"], ["a", "a", "b", "c", "b"]])
def test_a_label_that_a_group_lacks_is_no_gap(groups):
    rows = {"predictions": [0, 1, 0, 0, 1], "references": [0, 1, 0, 0, 1], "attributes": groups}
    assert metrics.EqualisedOdds().compute(**rows)["equalised_odds_gap"] == 0
    only_a = {"predictions": [0, 1, 0, 0], "references": [0, 1, 0, 0], "attributes": groups[:4]}
    assert metrics.EqualisedOdds().compute(**only_a)["equalised_odds_gap"] == 0


def test_the_worst_group_is_the_worst_of_a_plain_count():
    rng = np.random.default_rng(2)
    for _ in range(10):
        true, groups = rng.integers(0, 4, 60), rng.choice(["a", "b", "c"], 60)
        predicted = np.where(rng.random(60) < 0.7, true, rng.integers(0, 4, 60))
        cells = {}
        for p, y, a in zip(predicted, true, groups, strict=True):
            cells.setdefault((a, y), []).append(p == y)
        measured = metrics.WorstGroupAccuracy().compute(predictions=predicted, references=true, attributes=groups)
        assert measured["worst_group_accuracy"] == pytest.approx(min(np.mean(c) for c in cells.values()))


def test_equalised_odds_looks_within_each_label():
    # Given the label both groups answer alike, but group b holds more of label 1, which is often taken for 0.
    true = [1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2]
    predicted = [1, 0, 2, 2, 2, 2, 1, 0, 1, 0, 2, 2]
    rows = {"predictions": predicted, "references": true, "attributes": ["a"] * 6 + ["b"] * 6}
    assert metrics.EqualisedOdds().compute(**rows)["equalised_odds_gap"] == 0
    assert metrics.DemographicParity().compute(predictions=predicted, attributes=rows["attributes"]) == {
        "demographic_parity_gap": pytest.approx(4 / 6 - 2 / 6)
    }


@pytest.mark.parametrize("seed", range(5))
def test_fairlearn_agrees_on_two_classes(seed):
    fairlearn = pytest.importorskip("fairlearn.metrics")
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    attribute = rng.choice(["a", "b", "c"], 200)
    rows = {"predictions": predicted, "references": true, "attributes": attribute}
    parity = fairlearn.demographic_parity_difference(true, predicted, sensitive_features=attribute)
    odds = fairlearn.equalized_odds_difference(true, predicted, sensitive_features=attribute)
    rates = fairlearn.MetricFrame(
        metrics=fairlearn.false_positive_rate, y_true=true, y_pred=predicted, sensitive_features=attribute
    )
    measured = metrics.DemographicParity().compute(predictions=predicted, attributes=attribute)
    assert measured["demographic_parity_gap"] == pytest.approx(parity)
    assert metrics.EqualisedOdds().compute(**rows)["equalised_odds_gap"] == pytest.approx(odds)
    measured = metrics.FalsePositiveRates().compute(**rows)
    assert measured["false_positive_rate_gap"] == pytest.approx(rates.difference())
    assert measured["false_positive_rate"] == pytest.approx(rates.overall)
    for value, rate in rates.by_group.items():
        assert measured[f"false_positive_rate_of_{value}"] == pytest.approx(rate)

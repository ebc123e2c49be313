"""What every metric shares: the rows it keeps and lets go of, what it refuses, and its description."""

import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

import hf_unlearn.metrics as metrics
from hf_unlearn.metrics.base import CLASS, Predicted, TrueClasses, UnlearningMetric
from tests.metrics.cases import ALL, BIAS, CLASSES_OF, COLORS, POINTS, PREDICTED, TRUE, new

pytestmark = pytest.mark.usefixtures("evaluate_cache")

FOLDER = Path(metrics.__path__[0])


def test_combined_they_give_what_each_gives(no_network):
    both = evaluate.combine([new("cramers_v"), str(FOLDER / "equalised_odds.py"), new("bias_following")])
    expected = BIAS["cramers_v"][2] | BIAS["equalised_odds"][2] | BIAS["bias_following"][2]
    assert both.compute(**ALL) == pytest.approx(expected)
    for start in (0, 4, 8):
        both.add_batch(**{k: v[start : start + 4] for k, v in ALL.items()})
    assert both.compute() == pytest.approx(expected)
    for p, y, a in zip(PREDICTED, TRUE, COLORS, strict=True):
        both.add(prediction=p, reference=y, attributes=a)
    assert both.compute() == pytest.approx(expected)


@pytest.mark.parametrize("name", metrics._NAMES.values())
def test_each_says_what_it_reads_and_how_to_read_it(name):
    metric = getattr(metrics, CLASSES_OF[name])()
    assert metric.name == name
    assert list(metric.features) == list(metric.columns)
    text = metric.inputs_description
    for argument in [*metric.columns, *metric._option_names()]:
        assert re.search(rf"^    {argument}: [A-Z].*(\n {{8,}}.*)*\.$", text, re.M), "a whole sentence"
    for word in ("Output: ", "[", "Reading: ", "Raises ValueError ", "Source: "):
        assert word in text
    assert "retrained" in text.partition("Reading: ")[2]
    assert metric.description.endswith(".")
    assert any(c.isdigit() for c in metric.citation), "a source has a year or a number"
    assert "lower is better" not in text
    for place in (type(metric).__doc__, metric.compute.__doc__, metric.add_batch.__doc__):
        assert text.strip() in place


def test_a_metric_of_ones_own_gets_the_shared_parts_of_its_docstring():
    class Errors(UnlearningMetric):
        """Count the wrong answers."""

        source = "Counting, 2024."

        def _compute(self, *, predictions: Predicted, references: TrueClasses, weight: float = 1.0):
            return {"errors": weight * sum(p != y for p, y in zip(predictions, references, strict=True))}

    class Weighted(Errors):
        reading = "Large is bad."

    assert [*Errors.columns] == ["predictions", "references"]
    assert Errors.__doc__.startswith("Count the wrong answers.\n\nColumns:\n    predictions: The class ids (n,)")
    assert "Reading: The target is the value of the retrained model." in Errors.__doc__
    assert Weighted(weight=2.0).compute(predictions=[0, 1, 2], references=[0, 0, 0]) == {"errors": 4.0}
    assert Weighted.columns == Errors.columns
    assert Weighted().description == "Count the wrong answers."


def test_a_metric_without_columns_is_refused_and_a_base_of_ones_own_needs_no_source():
    with pytest.raises(TypeError, match="_compute` names no column"):

        class Old(UnlearningMetric):
            columns = {"predictions": CLASS}  # noqa: RUF012 - columns were named so before they were annotated

            def _compute(self, *, predictions):
                return {"n": len(predictions)}

    class Base(UnlearningMetric):
        """Share what several metrics need."""

    class Count(Base):
        """Count the answers."""

        source = "Counting, 2024."

        def _compute(self, *, predictions: Predicted):
            return {"n": len(predictions)}

    assert "Source:" not in Base.__doc__
    assert Count.__doc__.endswith("Source: Counting, 2024.\n")
    assert Count().compute(predictions=[0, 1]) == {"n": 2}


def test_every_file_of_the_folder_is_public():
    files = {f.stem for f in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert files == set(metrics._NAMES.values())
    assert dir(metrics) == sorted(metrics._NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        metrics.Nothing  # noqa: B018


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
        predictions=torch.tensor(PREDICTED[:4]), references=np.array(TRUE[:4]), attributes=np.array(COLORS[:4])
    )
    metric.add_batch(predictions=PREDICTED[4:8], references=torch.tensor(TRUE[4:8]), attributes=COLORS[4:8])
    metric.add_batch(predictions=torch.tensor(PREDICTED[8:]), references=np.array(TRUE[8:]), attributes=COLORS[8:])
    assert metric.compute() == pytest.approx(BIAS["bias_following"][2])


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


def test_a_mistyped_option_or_a_second_process_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`maping` is nothing that BiasFollowing reads.*its options `mapping`"):
        metrics.BiasFollowing(maping=POINTS)
    with pytest.raises(ValueError, match=r"`num_process=2`.*Gather them first"):
        metrics.BiasFollowing(num_process=2, process_id=1)
    metric = metrics.CramersV()
    with pytest.raises(ValueError, match="`predictions` is missing"):
        metric.compute()
    with pytest.raises(ValueError, match="`colors` is nothing"):
        metric.add_batch(predictions=PREDICTED, colors=COLORS)


def test_options_are_of_the_constructor_or_of_the_call():
    assert metrics.BiasFollowing().compute(**ALL, mapping=POINTS) == new("bias_following").compute(**ALL)
    only_red = metrics.BiasFollowing(mapping=POINTS).compute(**ALL, mapping={**POINTS, "green": None})
    assert only_red == {"bias_following": pytest.approx(2 / 3)}, "of 2, 3 and 8 the last two follow red"

"""What a comparison records of a cell, and how a scene shares its models."""

from functools import partial

import pytest

from hf_unlearn import METHODS, UnlearningArguments
from hf_unlearn.evaluation.comparison.cells import read
from hf_unlearn.pipeline.comparison import Plan, Scene, compare, described, lengths
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.recipes import save_model_and_data

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compare")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_model_and_data(tmp_path_factory.mktemp("compared"))


def parts_of(root, method, seed=0, **settings):
    run = RunArguments(
        model=str(root / "original"), dataset=str(root / "data"), base_model="none", forget_class=["1"], retrain=2,
        retrained_cache=str(root / "cache"), train_epochs=15.0, train_batch_size=8, train_learning_rate=3e-3,
    )  # fmt: skip
    args = UnlearningArguments(
        output_dir=str(root / "run"),
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        max_steps=4,
        seed=seed,
        report_to="none",
    )
    return run, args, METHODS[method](**settings)


def test_a_cell_says_what_was_done_and_what_it_cost(root, tmp_path):
    parts = {m: partial(parts_of, root, m) for m in ("surrogate_distillation", "neggrad_plus")}
    made = []

    def scene():
        made.append(Scene("digit", parts["surrogate_distillation"], tmp_path / "retrained", tmp_path / "measured", 7))
        return made[-1]

    plans = [Plan("digit", "neggrad_plus", 0, parts["neggrad_plus"])]
    told = []
    found = compare(plans, {"digit": scene}, tmp_path, {"": {"model": "m"}, "digit": {}}, told.append)
    (cell,) = found.cells
    assert cell == next(iter(read(tmp_path / "cells.jsonl").values()))
    assert cell.settings["method"] == "neggrad_plus"
    assert cell.settings["max_steps"] == cell.steps == 4
    assert cell.settings["found_rate"] > 0
    assert not cell.handed_back
    assert cell.exit_code in (0, 1)
    assert set(cell.figures) == {"original", "unlearned"}
    assert len(cell.divergence["among"]) == 1
    assert cell.lines["features"].keys() == {"unlearned", "expected", "margin", "result", "telling"}
    (model,) = made
    rows = len(model.job.split.retain)
    assert cell.cost["retraining_passes"] == pytest.approx(15 * rows)
    assert cell.cost["passes"] >= 4 * 4 * 5  # steps of four forget and sixteen retain rows
    assert model.auditor.audit_seed == 7
    assert model.cost["retraining_seconds"] == cell.cost["retraining_seconds"]
    # The test rows of all methods are those that no method reads to stop.
    assert len(model.job.test) + len(model.job.validation) == 96
    assert "digit, neggrad_plus, seed 0: " in told[-1]
    again = compare(plans, {"digit": scene}, tmp_path, {"": {"model": "m"}, "digit": {}}, told.append)
    assert again.cells == [cell]
    assert len(made) == 1


def test_a_request_that_cannot_be_loaded_ends_the_comparison(root, tmp_path):
    parts = partial(parts_of, root, "neggrad_plus")

    def scene():
        raise ValueError("no such rows")

    with pytest.raises(ValueError, match="no such rows"):
        compare([Plan("a", "neggrad_plus", 0, parts)], {"a": scene}, tmp_path, {"": {}, "a": {}})


def test_settings_are_resolved():
    method = METHODS["salun"](saliency=0.5)
    assert "found_rate" not in described(method)
    vars(method)["_found_rate"] = 1.23456e-4
    assert described(method)["found_rate"] == 1.23e-4
    assert described(method)["saliency"] == 0.5
    assert lengths.__doc__

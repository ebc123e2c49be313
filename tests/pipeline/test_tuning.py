"""Equal budgets: the same number of rows for every method, the best of the trials, and none of them twice."""

from functools import partial

import pytest

from hf_unlearn import METHODS, UnlearningArguments
from hf_unlearn.evaluation.comparison.cells import lines_of
from hf_unlearn.pipeline.tuning import STEP_RANGES, WORST, Budget, ranges, steps_for, tune

pytest.importorskip("optuna")


class Asked:
    """A request on which the gap is known: the rate is best at 0.1."""

    retain_rows = 160

    def __init__(self, fails=()):
        self.tried, self.fails = [], fails

    def gap(self, parts):
        _, _, method = parts
        self.tried.append(method.rate)
        if len(self.tried) in self.fails:
            raise RuntimeError("no")
        return min(0.9, abs(method.rate - 0.1))


def parts_of(name, tmp_path, options):
    options = dict(options)
    args = UnlearningArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=options.pop("max_steps", None))
    return None, args, METHODS[name](**options)


def test_the_best_trial_is_taken_and_a_failed_one_is_the_worst(tmp_path):
    asked, told = Asked(fails=(2,)), []
    parts = partial(parts_of, "delete", tmp_path)
    found = tune("mine", asked, parts, Budget(6, 0.5), tmp_path / "trials.jsonl", "all", told.append)
    trials = lines_of(tmp_path / "trials.jsonl")
    assert trials[1]["gap"] == WORST
    assert [t["settings"]["rate"] for t in trials] == pytest.approx(asked.tried)
    assert found["rate"] == min(trials, key=lambda t: t["gap"])["settings"]["rate"]
    assert found["max_steps"] == 5  # 80 rows in batches of 16
    assert len(told) == 6


def test_trials_of_an_earlier_call_are_not_run_again(tmp_path):
    parts, file = partial(parts_of, "delete", tmp_path), tmp_path / "trials.jsonl"
    quiet = [].append
    tune("mine", Asked(), parts, Budget(3, 0.5), file, "all", quiet)
    more = Asked()
    tune("mine", more, parts, Budget(5, 0.5), file, "all", quiet)
    assert len(more.tried) == 2
    for changed in ({"described_by": "other"}, {"budget": Budget(2, 0.7)}, {"name": "another"}):
        asked = Asked()
        given = {"name": "mine", "budget": Budget(2, 0.5), "described_by": "all", **changed}
        tune(request=asked, parts=parts, file=file, tell=quiet, **given)
        assert len(asked.tried) == 2, changed


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.needs_column and not m.starts_fresh])
def test_every_method_has_ranges_that_it_takes(tmp_path, name):
    _, args, method = parts_of(name, tmp_path, {})
    found = ranges(method, args)
    steps = found.keys() & STEP_RANGES.keys()
    assert len(steps) == (0 if method.one_shot else 1)
    for low, high in found.values():
        assert 0 < low < high
    own = {key: bounds for key, bounds in found.items() if key not in ("learning_rate", "trust_region")}
    for place in (0, 1):
        METHODS[name](**{key: bounds[place] for key, bounds in own.items()})


def test_every_method_reads_as_many_rows(tmp_path):
    budget = Budget(1, 0.5)
    for name, rows in (("salun", 4 + 16), ("fine_tune", 64), ("delete", 16), ("l1_sparse", 16), ("scrub", 16 + 16)):
        _, args, method = parts_of(name, tmp_path, {})
        assert steps_for(budget, method, args, 1600) == pytest.approx(800 / rows, abs=1), name

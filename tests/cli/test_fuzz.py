"""Spoiled recipes, rows, model folders and lists of ids, drawn by seed: every run ends with 0, 1 or 2, and names what was spoiled.

`HF_UNLEARN_FUZZ=600 pytest tests/cli/test_fuzz.py -m slow` runs as many recipes and half as many data sets. A failing case is
run again by the name of its test.
"""

import os
import random

import datasets
import pytest

from tests.support.fuzz import Case, faults, run_case, save_originals
from tests.support.fuzz_data import spoil_data
from tests.support.fuzz_recipes import spoil_recipe
from tests.support.tables import slow

QUICK = 40
LONG = int(os.environ.get("HF_UNLEARN_FUZZ", "0"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return save_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def check(tmp_path, originals, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)

    def check(spoil, number):
        rng = random.Random(f"{spoil.__name__} {number}")
        case = Case(tmp_path, originals, rng, rng.choice(["image", "text"]))
        spoil(case)
        outcome = run_case(case)
        assert not faults(case, outcome), f"{case.what}: {outcome.said[-2_000:]}"

    return check


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [*range(QUICK // 5), *slow(*range(QUICK // 5, QUICK))])
@pytest.mark.parametrize("spoil", [spoil_recipe, spoil_data])
def test_a_few_spoiled_inputs_end_with_0_1_or_2(check, spoil, number):
    check(spoil, number)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("spoil", "number"),
    [(spoil_recipe, n) for n in range(QUICK, LONG)] + [(spoil_data, n) for n in range(QUICK, LONG // 2)]
    or [pytest.param(None, 0, marks=pytest.mark.skip("set HF_UNLEARN_FUZZ=600 for 600 recipes and 300 data sets"))],
)
def test_many_spoiled_inputs_end_with_0_1_or_2(check, spoil, number):
    check(spoil, number)

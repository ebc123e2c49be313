"""The list of methods says what the classes say."""

import json

import pytest

from hf_unlearn import METHODS
from hf_unlearn.cli import main
from hf_unlearn.cli.methods import describe


def test_every_method_is_listed_with_its_summary(capsys):
    assert main(["methods"]) == 0
    told = capsys.readouterr().out
    for key, method in METHODS.items():
        assert f"{key}  forgets: " in told
        assert method.about()["summary"] in told


def test_as_json_it_can_be_read_by_a_program(capsys):
    assert main(["methods", "--json"]) == 0
    found = {one["method"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == list(METHODS)
    assert found["jit"]["paper"].endswith("2402.01401")


@pytest.mark.parametrize(
    ("key", "forgets", "reads"),
    [
        ("jit", ["class", "samples"], ["forget inputs"]),
        ("counterfactual_distillation", ["class"], ["forget inputs"]),
        ("feature_information", ["attribute"], ["retain rows", "a column"]),
        ("fine_tune", ["class", "samples"], ["retain rows"]),
        ("neggrad_plus", ["class", "samples"], ["forget rows with labels", "retain rows", "the base, if it is known"]),
    ],
)
def test_what_a_method_forgets_and_reads_is_that_of_its_class(key, forgets, reads):
    found = describe(key, METHODS[key])
    assert (found["forgets"], found["reads"]) == (forgets, reads)


def test_a_method_without_steps_says_so():
    assert not describe("wasserstein_barycenter", METHODS["wasserstein_barycenter"])["trains"]

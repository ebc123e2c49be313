"""Two processes give the results of one process with the same rows in each step, for every method."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from hf_unlearn import METHODS
from hf_unlearn.cli.processes import launch
from tests.support.data_parallel_run import CASES, RESUMED, SHARDED, ZERO, run_all
from tests.support.fresh_processes import exit_codes, start, start_together
from tests.support.models import state, trained

ROOT = Path(__file__).parents[2]
STOPS = {"jit: head, until the target", "gradient_ascent: lands on its target"}
NAMES = [
    *CASES,
    *(f"fsdp: {name}" for name in SHARDED),
    *(f"resumed: {name}" for name in (*RESUMED, "fsdp: trust region", "fsdp: gradient_ascent: lands on its target")),
]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("data parallel")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of one process, and of two. They are made once, because each run of all cases takes long."""
    alone, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("two")
    processes = [start(run_all, alone, log=alone / "log"), *start_together(run_all, two, log=two / "log")]
    assert exit_codes(processes, 500) == [0, 0, 0], (alone / "log").read_text()[-3000:] + (two / "log").read_text()[
        -3000:
    ]
    return [torch.load(alone / "results-0.pt")], [torch.load(two / f"results-{rank}.pt") for rank in (0, 1)]


def flat(weights):
    return torch.cat([weights[n].double().flatten() for n in sorted(weights) if weights[n].is_floating_point()])


def test_every_method_is_among_the_cases():
    assert {key for key, *_ in CASES.values()} == set(METHODS)


def plain(name):
    """The case of a name, without how it was run."""
    return name.removeprefix("resumed: ").removeprefix("fsdp: ").removeprefix("zero: ")


def alone(results, name):
    """The result of one process: with five steps if two processes were killed and resumed."""
    of, case = results[0][0], plain(name)
    return of.get(f"whole: {case}", of[case]) if name.startswith("resumed: ") else of[case]


def check(name, one, two, other):
    assert (one["processes"], two["processes"]) == (1, 2)
    start = flat(state(trained(CASES[plain(name)][1])))
    end, together = flat(one["weights"]), flat(two["weights"])
    moved, apart = (end - start).norm(), (end - together).norm()
    # Directions that retain rows hardly have are scaled up, and with them how the other batches round.
    assert apart <= (1e-4 if "by direction" in name else 1e-5) * end.norm()
    assert apart <= 1e-3 * moved  # a gradient scaled by the number of processes would show here as 1.0
    if "wasserstein_barycenter" in name:
        assert one["outcome"]["outputs_moved"] > 1e-3
    else:
        assert moved > 1e-3
    assert torch.equal(together, flat(other["weights"]))
    # Each term of the loss as it is logged, and the loss of 30 rows in batches of 8.
    assert [pytest.approx(entry, rel=1e-3, abs=1e-4) for entry in one["log"]] == two["log"]
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-4)
    assert two["evaluation"] == other["evaluation"]
    for key in ("steps", "stopped", "path", "forget_end", "retain_end", "forget_target"):
        assert one["outcome"][key] == two["outcome"][key] == other["outcome"][key], key
    assert (one["outcome"]["stopped"] == "target reached") == (plain(name) in STOPS)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_end_at_the_weights_of_one(results, name):
    if name == "resumed: fsdp: trust region":  # five steps, which one process did not take
        one = results[1][0]["whole: fsdp: trust region"] | {"processes": 1}
    else:
        one = alone(results, name)
    check(name, one, *(of[name] for of in results[1]))


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
def test_two_processes_under_zero_2_end_at_the_weights_of_one(results, tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "tests.support.data_parallel_run", str(tmp_path), "zero"]
    assert launch(command, 2, environment) == 0
    two, other = (torch.load(tmp_path / f"results-{rank}.pt") for rank in (0, 1))
    for name in ZERO:
        check(f"zero: {name}", alone(results, name), two[f"zero: {name}"], other[f"zero: {name}"])
    name = "zero: gradient_difference"
    check(name, two[f"whole: {name}"] | {"processes": 1}, two[f"resumed: {name}"], other[f"resumed: {name}"])


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_of_two_processes_that_was_killed_resumes_to_the_same_weights(results, name):
    for of in results:
        for found in of:
            resumed, whole = (found[f"{kind}: {name}"] for kind in ("resumed", "whole"))
            assert torch.equal(flat(resumed["weights"]), flat(whole["weights"]))
            assert resumed["outcome"]["path"] == whole["outcome"]["path"]


def test_batch_norm_statistics_are_those_of_the_first_process_in_both(results):
    one, two = (found["batch norm"] for found in results[1])
    assert torch.equal(flat(one["weights"]), flat(two["weights"]))
    assert one["outcome"] == two["outcome"]


def test_a_broken_loss_in_one_process_ends_all_of_them(results):
    for of in results:
        for found in of:
            assert "NaN or infinite" in found["poison"]

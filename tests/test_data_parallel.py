"""Two processes give what one process gives with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import state, trained

SCRIPT = Path(__file__).with_name("data_parallel_run.py")


def run(method, arch, processes, folder):
    folder.mkdir()
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(SCRIPT), method, arch, str(16 // processes), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result = torch.load(folder / "result.pt")
    assert result["processes"] == processes
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "arch"),
    [
        ("jit", "vit"),
        ("jit-sum", "vit"),
        ("counterfactual_distillation", "vit"),
        ("gradient_difference", "bert"),
        ("marginal_information", "bert"),
        ("feature_information", "vit"),
        ("uib", "vit"),
    ],
)
def test_two_processes_end_at_the_weights_of_one(tmp_path, method, arch):
    one, two = (run(method, arch, n, tmp_path / str(n)) for n in (1, 2))
    start = state(trained(arch))
    flat = {
        k: torch.cat([r[n].double().flatten() for n in start])
        for k, r in {"one": one["weights"], "two": two["weights"], "start": start}.items()
    }
    moved, apart = (flat["one"] - flat["start"]).norm(), (flat["one"] - flat["two"]).norm()
    assert moved > 1e-3
    assert apart <= 1e-5 * flat["one"].norm()
    assert apart <= 1e-3 * moved  # a gradient scaled by the number of processes would show here as 1.0
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    assert two["path"] == one["path"]

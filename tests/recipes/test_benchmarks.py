"""The benchmark of steps measures what it says, and says when it measures nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "recipes" / "benchmarks" / "just_in_time.py"
TINY = ["--small", "--batch", "4", "--copies", "2", "--rounds", "1"]


def run(*words):
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr


def check(found):
    """Every step has a time and a ratio; the official loop and ours do the same."""
    assert not found["failed"]
    assert {(r["model"], r["precision"]) for r in found["results"]} == {
        (m, p) for m in ("vit 192x12", "resnet-18") for p in ("fp32", "bf16")
    }
    for result in found["results"]:
        assert result["jit"]["steps"].keys() >= {"official", "floor", "jit"}
        assert result["others"]["over_training"].keys() == {"marginal information", "feature information", "uib"}
        assert all(row["ms"] > 0 for part in ("jit", "others") for row in result[part]["steps"].values())
        assert result["jit"]["loss_difference"] < 0.1


@pytest.mark.slow
def test_steps_are_measured_on_a_cpu(tmp_path):
    code, found = run("--device", "cpu", *TINY, "--out", str(tmp_path / "found.json"))
    assert code == 0, found
    check(found)
    assert json.loads((tmp_path / "found.json").read_text()) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_and_their_memory_are_measured_on_a_gpu():
    code, found = run(*TINY)
    assert code == 0, found
    check(found)
    steps = [row for r in found["results"] for part in ("jit", "others") for row in r[part]["steps"].values()]
    assert all(row["peak_mib"] > 0 for row in steps)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_nothing_is_measured_and_it_says_so():
    code, found = run()
    assert code == 0
    assert "no CUDA device" in found["skipped"]
    code, message = run("--device", "cuda")
    assert code == 2
    assert "no CUDA device" in message

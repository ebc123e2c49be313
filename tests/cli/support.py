"""Commands in fresh processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.recipes import run_options

ROOT = Path(__file__).parents[2]


def run_command(folders, out, *words, launcher=(), **keys):
    """The words of `hf-unlearn run`; with `launcher` those of recipes/unlearn.py under that module."""
    start = [*launcher, str(ROOT / "recipes" / "unlearn.py")] if launcher else ["-m", "hf_unlearn.cli", "run"]
    return [sys.executable, *start, *run_options(folders, output_dir=out, **keys), *words]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}


def complete(words):
    """Run a command to its end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment(), cwd=ROOT)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing after {seconds} seconds"
        time.sleep(0.05)

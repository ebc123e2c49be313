"""Commands in fresh processes."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hf_unlearn.cli import main
from tests.support.fresh_processes import exit_codes, start
from tests.support.recipes import run_options

ROOT = Path(__file__).parents[2]


def run_command(folders, out, *words, launcher=(), **keys):
    """The words of `hf-unlearn run`; with `launcher` those of recipes/unlearn.py under that module."""
    start = [*launcher, str(ROOT / "recipes" / "unlearn.py")] if launcher else ["-m", "hf_unlearn.cli", "run"]
    return [sys.executable, *start, *run_options(folders, output_dir=out, **keys), *words]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}


def complete(words):
    """Run a command to its end in a fresh process."""
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment(), cwd=ROOT)


def forked(words):
    """Run a command of `hf-unlearn` to its end in a process that is forked with all imports done, which saves seconds."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        (code,) = exit_codes([begin(words, *streams)])
        return subprocess.CompletedProcess(words, code, *(s.read_text() for s in streams))


def begin(words, out=os.devnull, err=os.devnull):
    """Start a command of `hf-unlearn` in such a process, with its output in two files."""
    assert words[1:3] == ["-m", "hf_unlearn.cli"]
    return start(_command, words[3:], out, err, environment=environment())


def _command(words, *streams):
    for descriptor, (name, stream) in enumerate(zip(("stdout", "stderr"), streams, strict=True), 1):
        file = open(stream, "w", buffering=1)  # noqa: SIM115  # it is open until the process ends
        os.dup2(file.fileno(), descriptor)
        setattr(sys, name, file)
    return main(words)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing after {seconds} seconds"
        time.sleep(0.05)

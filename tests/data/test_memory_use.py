"""The memory that a run takes does not grow with the number of rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
ROWS = 40_000  # to forget, of twice as many


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_memory_is_flat_in_the_number_of_rows(tmp_path, kind):
    script = ROOT / "recipes" / "benchmarks" / "big_inputs.py"
    command = [sys.executable, str(script), "parts", "--rows", str(ROWS), "--kind", kind, "--folder", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    byte_a_row = ROWS / 2**20
    assert found["request and split"]["peak_mib"] < 5 + 110 * byte_a_row
    assert found["checks"]["peak_mib"] < 210 * byte_a_row
    assert found["sampler, one epoch"]["peak_mib"] < 16 * byte_a_row
    assert found["20,000 items"]["peak_mib"] < 128
    assert not list(tmp_path.iterdir())

"""How a command's threads wait for each other, so that another busy process does not bring it to a halt."""

import os
import subprocess
import sys

import pytest

from hf_unlearn.cli import main


@pytest.mark.parametrize(
    ("given", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, None)]
)
def test_waiting_threads_sleep_unless_the_user_chose_otherwise(monkeypatch, given, policy):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "7", **given})
    assert main(["--version"]) == 0
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_torch_is_loaded_later():
    code = "import sys, hf_unlearn.cli as c; c.main(['--version']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

"""The processes of a run on several: they end when their launcher does, and each is interrupted once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.support import wait_until

WAITING = """
import os, sys, time
from pathlib import Path
from hf_unlearn.cli.worker import end_with_launcher
end_with_launcher()
rank = int(os.environ['RANK'])
folder, signals = Path(sys.argv[1]), 0
Path(folder / f"ready-{rank}").touch()
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        signals, end = signals + 1, time.monotonic() + 1
        (folder / f"signals-{rank}").write_text(str(signals))
sys.exit(130)
"""


def start_launcher(folder):
    """A launcher with two processes that wait for a signal, in a process group of its own, as a shell's job is."""
    words = [sys.executable, "-c", WAITING, str(folder)]
    code = f"from hf_unlearn.cli.processes import launch; import sys; sys.exit(launch({words!r}, 2))"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_until(lambda: len(list(folder.glob("ready-*"))) == 2)
    time.sleep(0.2)
    return process


@pytest.mark.slow
def test_ctrl_c_reaches_every_process_once(tmp_path):
    process = start_launcher(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert [(tmp_path / f"signals-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


@pytest.mark.slow
def test_no_process_outlives_its_launcher(tmp_path):
    process = start_launcher(tmp_path)
    process.kill()
    process.wait(timeout=30)
    wait_until(lambda: all((tmp_path / f"signals-{rank}").is_file() for rank in (0, 1)))


def test_an_interrupt_while_the_run_is_imported_is_no_traceback():
    """A process imports for seconds before its run begins."""
    code = (
        "import runpy, sys, types\n"
        "class Interrupting(types.ModuleType):\n"
        "    def __getattr__(self, name): raise KeyboardInterrupt\n"
        "import hf_unlearn.cli\n"
        "sys.modules['hf_unlearn.cli.run'] = Interrupting('hf_unlearn.cli.run')\n"
        "runpy.run_module('hf_unlearn.cli.worker', run_name='__main__')\n"
    )
    reader, writer = os.pipe()  # the standard input stays open, or the end of the launcher would interrupt too
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=reader, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(reader)
    os.close(writer)
    assert (done.returncode, done.stderr) == (130, "\nInterrupted. \n")

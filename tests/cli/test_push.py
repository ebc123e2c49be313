"""`hf-unlearn push`: what it lists, and how SIGTERM ends it. tests/hub/push holds what it sends."""

import signal
import threading

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.push import stopped_by_sigterm
from tests.support.hub_runs import RUN_FILES, run_folder


def test_a_dry_run_lists_files_with_their_sizes_and_asks_nobody(tmp_path, no_network, capsys):
    folder = run_folder(tmp_path / "run", original=("org/original", "0" * 40))
    assert main(["push", str(folder), "--repo", "alice/forgetful", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Would push to alice/forgetful:\n")
    assert all(f"  {name}  (" in shown for name in RUN_FILES)
    weights = (folder / "model" / "model.safetensors").stat().st_size
    assert f"  model.safetensors  ({weights:,} bytes)" in shown
    assert "_private" in shown.split("Would leave out: ")[1]
    assert main(["push", str(folder), "--repo", "forgetful", "--dry-run"]) == 0
    assert "Would push to forgetful in your own namespace:" in capsys.readouterr().out


def test_sigterm_exits_with_143_and_the_former_handler_comes_back():
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, stopped_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is former


def test_another_thread_leaves_signals_alone():
    found = []

    def work():
        with stopped_by_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [signal.getsignal(signal.SIGTERM)]

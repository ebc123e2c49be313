"""Shards that are trained side by side, and rows that are checked before."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import concatenate_datasets

from hf_unlearn.shards.jobs import check_held_out, prepared_rows, processor_of
from hf_unlearn.shards.settings import ShardSettings
from hf_unlearn.shards.trainer import ShardedTrainer
from hf_unlearn.shards.version import Version
from tests.shards.support import KEY, SMALL, rows_for, shared, weights
from tests.support.data import pixel_data, tokenizer

pytestmark = pytest.mark.xdist_group("shared shards")

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from hf_unlearn.shards.jobs import _begin
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _begin, (context.Value("i", 0),)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path):
    folder, base, rows = shared()
    settings, told = ShardSettings(**SMALL), []
    side_by_side = ShardedTrainer(num_processes=2, use_cpu=True, tell=told.append)
    side_by_side.train(base, rows, tmp_path / "v1", settings=settings, key=KEY)
    assert weights(tmp_path / "v1") == weights(folder)
    assert told[-1].endswith("is trained (3 of 3).")
    assert Version.load(tmp_path / "v1").ledger.seconds_per_step > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_process_ends_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    deadline = time.monotonic() + 30
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _runs(child)


def _runs(process):
    """Whether a process is there and not only waits to be buried."""
    status = Path(f"/proc/{process}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_row_is_read_before_a_model_is_trained():
    sharding = Version.load(shared()[0]).sharding
    assert prepared_rows(sharding, shared()[2], tokenizer()).column_names == ["group", "label", "owner", "text"]
    bad = rows_for("bert", 24).map(lambda row, i: {"text": None if i == 17 else row["text"]}, with_indices=True)
    with pytest.raises(ValueError, match="row 17"):
        prepared_rows(sharding, bad, tokenizer())
    with pytest.raises(ValueError, match="reads texts, and the rows hold pictures"):
        prepared_rows(sharding, pixel_data(8), tokenizer())
    assert processor_of(sharding, tokenizer()).text


def test_weights_are_not_fitted_on_rows_of_the_training(caplog):
    folder, _, rows = shared()
    caplog.clear()  # of what making it may have said
    sharding = Version.load(folder).sharding
    with pytest.raises(ValueError, match="no row that the shards are not trained on"):
        check_held_out(sharding, rows.select(range(8)), rows, tokenizer())
    check_held_out(sharding, rows_for("bert", 24, seed=9), rows, tokenizer())
    check_held_out(sharding, None, rows, tokenizer())
    assert not caplog.text
    check_held_out(sharding, concatenate_datasets([rows.select([0]), rows_for("bert", 24, seed=9)]), rows, tokenizer())
    assert "1 of 25 rows have an identical copy" in caplog.text

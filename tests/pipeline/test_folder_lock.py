"""One folder has one writer, until the writer's block or process ends."""

import subprocess
import sys

import pytest

from hf_unlearn.cli import main
from hf_unlearn.pipeline.folder_lock import LOCK_FILE, sole_writer
from tests.support.recipes import run_options

HOLD = """
import sys, time
from hf_unlearn.pipeline.folder_lock import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""
# Two writers at once would both make the marker.
TAKE_TURNS = """
import os, sys, time
from hf_unlearn.pipeline.folder_lock import sole_writer
folder, turns, end = sys.argv[1], 0, time.monotonic() + 60
while turns < 30 and time.monotonic() < end:
    try:
        with sole_writer(folder):
            os.close(os.open(folder + "/marker", os.O_CREAT | os.O_EXCL))
            os.unlink(folder + "/marker")
            turns += 1
    except ValueError:
        pass
sys.exit(turns != 30)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.mark.parametrize("more", [[], ["--overwrite", "true"], ["--resume", "true"], ["--num-processes", "2"]])
def test_a_second_run_is_refused_at_once_and_harms_nothing(tmp_path, holder, capsys, monkeypatch, more):
    monkeypatch.setattr("hf_unlearn.cli.run.prepare", lambda *_: pytest.fail("loaded something"))
    before = sorted((tmp_path / "out").iterdir())
    assert main(["run", *run_options(tmp_path, output_dir=tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert f"`output_dir='{tmp_path / 'out'}'`: another run (process {holder.pid} on " in error
    assert sorted((tmp_path / "out").iterdir()) == before


def test_a_demo_into_the_folder_of_a_run_is_refused(tmp_path, holder, capsys):
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    assert "`--output=" in capsys.readouterr().err


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.kill()
    holder.wait(timeout=30)
    with sole_writer(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK_FILE).is_file()
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_an_error_leaves_no_lock_and_no_empty_folder(tmp_path):
    with pytest.raises(KeyError), sole_writer(tmp_path / "a"):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with sole_writer(tmp_path / "a"):
        (tmp_path / "a" / "file").touch()
        with pytest.raises(ValueError, match="another run"), sole_writer(tmp_path / "a"):
            pass
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file"]


def test_writers_take_turns(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", TAKE_TURNS, str(tmp_path)]) for _ in range(3)]
    assert [w.wait(timeout=100) for w in writers] == [0, 0, 0]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"`output_dir=.*`: a file stands"), sole_writer(tmp_path / place):
        pass

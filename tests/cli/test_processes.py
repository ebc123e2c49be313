"""`--num-processes`: exit codes, signals, which process writes to the terminal, and what is refused before any starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hf_unlearn.cli import processes as launching
from hf_unlearn.cli.processes import launch
from hf_unlearn.cli.run import main
from tests.cli.support import complete, environment, run_command
from tests.support.recipes import run_options

RANK = "import os, sys, time; rank = int(os.environ['RANK'])"


def script(text):
    return [sys.executable, "-c", f"{RANK}\n{text}"]


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((1, 0), 1), ((2, 2), 2), ((130, 130), 130), ((0, 3), 3)])
def test_exit_codes_come_through(codes, expected, capfd):
    assert launch(script(f"print('spoken', rank); sys.exit({codes}[rank])"), 2) == expected
    assert capfd.readouterr().out == "spoken 0\n"


def test_each_process_knows_its_place(tmp_path, capfd):
    names = "'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OWN'.split()"
    text = f"open(r'{tmp_path}/' + str(rank), 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert launch(script(text), 3, {"OWN": "x"}) == 0
    places = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [t[:4] for t in places] == [[str(rank), str(rank), "3", "3"] for rank in range(3)]
    assert {(t[4], t[6]) for t in places} == {("127.0.0.1", "x")}
    assert len({t[5] for t in places}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_one_that_fails_ends_those_that_wait_for_it_and_is_quoted(monkeypatch, capfd, stubborn):
    monkeypatch.setattr(launching, "PATIENCE", 0.5)
    text = f"{stubborn}\nif rank == 1: sys.exit('what went wrong')\ntime.sleep(60)"
    started = time.monotonic()
    assert launch(script(text), 2) == 1
    assert time.monotonic() - started < 20
    assert "Process 1 ended with code 1" in (error := capfd.readouterr().err)
    assert "what went wrong" in error


def test_a_process_that_is_killed_has_the_exit_code_of_a_shell(monkeypatch, capfd):
    monkeypatch.setattr(launching, "PATIENCE", 0.5)
    assert launch(script("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)"), 2) == 128 + 9


def test_the_same_error_in_all_processes_is_printed_once(capfd):
    assert (
        launch(script("print('Error: the same', file=sys.stderr); time.sleep(0.3 * (1 - rank)); sys.exit(2)"), 2) == 2
    )
    assert capfd.readouterr().err == "Error: the same\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-processes", "0"], "`--num-processes 0`"),
        (["--num_processes=many"], "`--num-processes many`"),
        (["--num-processes", "2", "--method", "nonsense"], "`method='nonsense'`"),
        (["--num-processes", "2", "--sigma", "-1"], "`sigma`"),
        (["--num-processes", "2", "--forget_clas", "3"], "`--forget_clas`"),
    ],
)
def test_bad_arguments_are_named_once_and_no_process_starts(monkeypatch, tmp_path, capsys, words, message):
    def started(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr("hf_unlearn.cli.run.launch", started)
    common = run_options(tmp_path, model="m", dataset="digits", output_dir=tmp_path)
    assert main([*common, *words]) == 2
    assert capsys.readouterr().err.count(message) == 1


def test_a_launcher_inside_a_launcher_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["--num-processes", "2"]) == 2
    assert "a launcher started" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_in_two_processes_forgets_and_says_so_once(folders, tmp_path):
    words = run_command(folders, tmp_path / "out", "--num-processes", "2", retrain="true", train_epochs=1)
    done = complete(words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Model in") == 1
    assert done.stdout.count("Retraining without") == 1
    assert "Traceback" not in done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"model", "retrained", "report.json", "report.html"}


@pytest.mark.slow
def test_ctrl_c_in_a_run_of_two_processes_leaves_a_checkpoint(folders, tmp_path):
    settings = {
        "method": "gradient_ascent", "forget_target": -1, "max_steps": 100_000, "learning_rate": 1e-9, "check_steps": 100_000,
        "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip
    process = subprocess.Popen(
        run_command(folders, tmp_path / "out", "--num-processes", "2", **settings), env=environment(), text=True, bufsize=1,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert any("'loss'" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.count("Resume from the checkpoint") == 1
    assert "Traceback" not in error
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert {"unlearning_state.json", "model.safetensors", "rng_state_0.pth", "rng_state_1.pth"} <= {
        p.name for p in checkpoint.iterdir()
    }

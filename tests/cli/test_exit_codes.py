"""Exit codes: bad input is 2 with a message, what nobody foresaw 70 with a traceback, an interrupt 130 or 143."""

import io
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from hf_unlearn import UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.cli.exit_codes import answered
from tests.cli.support import complete, environment, run_command
from tests.support.recipes import run_options, save_model_and_data


@pytest.fixture
def words(tmp_path):
    return ["run", *run_options(save_model_and_data(tmp_path), output_dir=tmp_path / "out")]


def malformed_row(folder):
    for split in ("train", "test"):
        (folder / "data" / f"{split}.parquet").unlink()
    (folder / "data" / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": \n')
    return "`dataset`: a file cannot be read"


def cut_off_weights(folder):
    os.truncate(folder / "original" / "model.safetensors", 3000)
    return "A file of weights is damaged or incomplete"


@pytest.mark.parametrize("spoil", [malformed_row, cut_off_weights])
def test_files_that_cannot_be_read_exit_with_2_and_a_message(tmp_path, words, capsys, spoil):
    message = spoil(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_change_outside_update_exits_with_2_and_writes_no_model(tmp_path, words, monkeypatch, capsys):
    original = UnlearningTrainer.training_step

    def stray(self, model, *args, **kwargs):
        with torch.no_grad():
            model.vit.embeddings.cls_token.add_(1.0)
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(UnlearningTrainer, "training_step", stray)
    assert main([*words, "--update", "head", "--max_steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "vit.embeddings.cls_token. The model must not be used. Load the original again" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "model").exists()


def test_an_error_that_nobody_foresaw_has_its_traceback_and_an_exit_code_of_its_own(words, monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyError("unforeseen")

    monkeypatch.setattr(UnlearningTrainer, "train", fail)
    assert main(words) == 70
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "KeyError: 'unforeseen'" in error


@pytest.mark.parametrize(
    ("message", "shown"),
    [("Resume from the checkpoint in out", "checkpoint in out with --resume true."), ("", "Interrupted. \n")],
)
def test_an_interrupt_says_how_to_go_on_where_there_is_a_checkpoint(words, monkeypatch, capsys, message, shown):
    def interrupt(*_, **__):
        raise KeyboardInterrupt(message)

    monkeypatch.setattr(UnlearningTrainer, "train", interrupt)
    assert main(words) == 130
    assert shown in capsys.readouterr().err


def interrupted_by_sigterm():
    stop = KeyboardInterrupt("half done")
    stop.signum = signal.SIGTERM
    return stop


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (SystemExit(0), 0, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("no such key"), 2, "Error: no such key\n"),
        (SystemExit(143), 143, ""),
        (ImportError("needs peft"), 2, "Error: needs peft\n"),
        (interrupted_by_sigterm(), 143, "\nInterrupted. half done\n"),
    ],
)
def test_what_is_raised_becomes_a_code_and_a_message(capsys, raised, code, message):
    def work():
        raise raised

    assert answered(work) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(KeyboardInterrupt(), 130, "\nInterrupted. \n"), (ImportError("needs torch"), 2, "Error: needs torch\n")],
)
def test_what_is_raised_while_a_command_is_imported_has_its_code_too(monkeypatch, capsys, raised, code, message):
    def fail(*_):
        raise raised

    monkeypatch.setattr("hf_unlearn.cli.import_module", fail)
    assert main(["push"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_cannot_show_is_replaced(monkeypatch, encoding):
    written, errors = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding=encoding))

    def work():
        print("from 猫 on")
        raise ValueError("no 猫")

    assert answered(work) == 2
    sys.stdout.flush()
    sys.stderr.flush()
    assert (written.getvalue(), errors.getvalue()) == (b"from ? on\n", b"Error: no ?\n")


PRINT = """
import sys
from hf_unlearn.cli.exit_codes import answered
sys.stdin.read()

def work():
    for _ in range(3):
        {how}("x " * 1_000)
        sys.stdout.flush()
    print("and a push", file=sys.stderr)
    return 1

sys.exit(answered(work))
"""


@pytest.mark.parametrize("how", ["print", "__import__('rich').print"])
def test_a_process_goes_on_when_nobody_reads_its_output(how):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT.format(how=how)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.close()
    error = process.stderr.read()
    assert (process.wait(timeout=60), error) == (1, b"and a push\n")
    process.stderr.close()


@pytest.mark.slow
def test_a_run_in_a_terminal_that_is_not_utf8_ends_well(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = complete(run_command(folders, tmp_path / "out", figures="false"))
    assert done.returncode == 0, done.stderr
    assert "Model in" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_ends_well(folders, tmp_path):
    process = subprocess.Popen(
        run_command(folders, tmp_path / "out", figures="false"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert (tmp_path / "out" / "report.json").is_file()


def test_a_value_that_fills_a_screen_is_cut(capsys):
    def work():
        raise ValueError(f"`update={'x' * 5000!r}` matches nothing.")

    assert answered(work) == 2
    assert re.fullmatch(r"Error: `update='x{71}… matches nothing\.\n", capsys.readouterr().err)

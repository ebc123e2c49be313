"""Versions and devices for a report of a bug, and nothing that tells who or where."""

import getpass
import os

import torch
import transformers

from hf_unlearn.cli import main
from hf_unlearn.cli.env import PACKAGES, found
from hf_unlearn.utils import VERSION


def test_versions_are_those_that_are_installed(monkeypatch):
    told = found()
    assert (told["hf_unlearn"], told["torch"], told["transformers"]) == (
        VERSION,
        torch.__version__,
        transformers.__version__,
    )
    assert set(PACKAGES) < told.keys()
    monkeypatch.setattr("hf_unlearn.cli.env.PACKAGES", ("no-such-package",))
    assert found()["no-such-package"] is None


def test_it_prints_a_line_for_each_and_names_no_folder_user_or_token(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["env"]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) == len(found())
    assert "hf_secret" not in told
    assert os.getcwd() not in told
    assert f" {getpass.getuser()}" not in told

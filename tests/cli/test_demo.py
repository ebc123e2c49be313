"""The demo."""

import json
import sys

import pytest

from hf_unlearn.cli import main
from tests.cli.support import complete
from tests.support.data import text_data


@pytest.mark.slow
def test_demo_on_a_folder_of_texts(tmp_path):
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        text_data(400 if split == "train" else 96, seed).to_json(tmp_path / "data" / f"{split}.jsonl")
    words = ["demo", "--task", "text", "--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    done = complete([sys.executable, "-m", "hf_unlearn.cli", *words])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("class-jit", "random-jit"):
        report = json.loads((tmp_path / "out" / name / "report.json").read_text())
        assert {"original", "unlearned", "retrained"} == set(report["models"])
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("Not forgotten as asked")] or [""]
        assert (name in line) == bool(report["outcome"]["warnings"])
    assert sorted(p.name for p in (tmp_path / "out" / "class-jit" / "figures").iterdir())


def test_texts_need_a_data_set(capsys):
    assert main(["demo", "--task", "text"]) == 2
    assert "--task text needs --dataset" in capsys.readouterr().err

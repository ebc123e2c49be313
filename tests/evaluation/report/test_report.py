"""The files of a report."""

import json

import pytest

from hf_unlearn import ForgetRequest, JiT
from tests.support.data import text_data
from tests.support.runs import trainer_for


def test_files_are_written_whole_and_agree(finished_run, tmp_path):
    finished_run.report.save(tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"
    assert json.loads((folder / "report.json").read_text())["models"] == finished_run.report.models
    text = (folder / "report.md").read_text()
    assert text == finished_run.report.to_markdown()
    for line in ("| accuracy on the forget set (%) |", "| | original | unlearned | retrained |", "gradient_ascent"):
        assert line in text
    figures = list((folder / "figures").glob("*.png"))
    assert figures
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in figures)
    assert not list(folder.rglob("*partial*"))


@pytest.mark.parametrize("figures", [True, False])
def test_no_file_holds_a_row_of_the_forget_set(tmp_path, figures):
    data = text_data(40).add_column("user", [f"secret-{i}" for i in range(40)])
    split = ForgetRequest(column="user", values=["secret-7", "secret-11", "secret-12"]).split(data)
    trainer = trainer_for("bert", tmp_path / "run", JiT(num_perturbations=2), split=split, forget_kind="samples")
    trainer.train()
    trainer.report(test_dataset=text_data(12, seed=3)).save(tmp_path / "report", figures=figures)
    written = b"".join(f.read_bytes() for f in (tmp_path / "report").rglob("*") if f.is_file())
    assert b"secret" not in written
    assert not any(text.encode() in written for text in split.forget["text"])

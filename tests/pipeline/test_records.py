"""What a report keeps of a recipe: short clean values, and of all others only their names."""

import json

import pytest

from hf_unlearn.cli import main
from hf_unlearn.hub.layout import RECEIPT
from hf_unlearn.pipeline.records import RUN_COVERS, _clean
from tests.support.recipes import run_options, save_model_and_data


@pytest.mark.parametrize("value", [3, 0.5, True, "test", "top-3 of all"])
def test_numbers_and_words_are_kept(value):
    assert _clean(value)


@pytest.mark.parametrize("value", ["/home/me/x", "C:\\x", "a\u202eb", "x" * 500, ["a"], None])
def test_paths_lists_and_what_hides_something_are_not(value):
    assert not _clean(value)


@pytest.mark.slow
def test_a_report_names_the_keys_that_it_does_not_show(tmp_path):
    """Rows, values and folders identify somebody: a card that is published must not have them."""
    save_model_and_data(tmp_path)
    (tmp_path / "ids.txt").write_text("user-3\nuser-4\n")
    keys = {"forget_class": None, "forget_column": "user", "forget_ids_file": tmp_path / "ids.txt"}
    options = run_options(tmp_path, output_dir=tmp_path / "out", max_steps=1, figures="false", **keys)
    assert main(["run", *options]) in (0, 1)
    run = json.loads((tmp_path / "out" / "report.json").read_text())["run"]
    assert run["recipe"].items() >= {"method": "jit", "forget_column": "user", "max_steps": 1}.items()
    assert set(run["left_out"]) >= {"model", "dataset", "forget_ids_file"}
    assert run["splits"] == {"train": "train", "test": "test"}
    assert run["request"] == "rows selected by column 'user'"
    receipt = json.loads((tmp_path / "out" / RECEIPT).read_text())
    assert receipt["covers"] == RUN_COVERS
    assert receipt["forgotten_rows"]["rows"] == 2
    assert "user-3" not in json.dumps([run, receipt])

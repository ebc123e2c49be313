"""What is refused before a model is read or trained, and which parts of a job are loaded."""

from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.methods import FeatureInformation
from hf_unlearn.pipeline.prepare import prepare
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.recipes import save_model_and_data, write_recipe
from tests.support.runs import arguments


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"forget_class": "['nine']"}, "`label='nine'`"), ({"train_split": "trian"}, "`train_split='trian'`")],
)
def test_bad_input_exits_with_2_before_the_model_is_read(tmp_path, capsys, keys, message):
    assert main(["run", "--config", write_recipe(tmp_path, **keys)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_a_model_is_refused(tmp_path, capsys):
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert main(["run", "--config", write_recipe(tmp_path)]) == 2
    assert "`output_dir=" in capsys.readouterr().err


def test_the_original_is_never_the_output(tmp_path, capsys):
    assert main(["run", "--config", write_recipe(tmp_path, model=str(tmp_path / "out" / "model"))]) == 2
    assert "would overwrite the original" in capsys.readouterr().err


def test_an_attribute_takes_no_rows_to_forget(tmp_path):
    run = RunArguments("missing", "digits", label_column="label", forget_class=["3"])
    with pytest.raises(ValueError, match="leave out `retrain` and the `forget_\\*` keys"):
        prepare(run, arguments(tmp_path), FeatureInformation(attribute="label"))


def test_a_job_holds_both_sides_of_the_request(tmp_path):
    save_model_and_data(tmp_path, rows=32)
    run = RunArguments(str(tmp_path / "original"), str(tmp_path / "data"), forget_class=["1"])
    job = prepare(run, arguments(tmp_path / "out"))
    assert [set(rows["label"]) for rows in (job.split.forget, job.split.retain)] == [{1}, {0, 2, 3}]
    assert (len(job.train), len(job.test), job.validation) == (32, 32, None)
    assert job.model.config.architectures == ["ViTForImageClassification"]
    assert not Path(tmp_path / "out" / "model").exists()

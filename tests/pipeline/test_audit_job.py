"""What an audit reads: which rows it takes as forget and retain set, and what it refuses. tests/evaluation holds its verdicts."""

import json
import shutil

import pytest

from hf_unlearn.cli import main
from hf_unlearn.models.pretrained import load_processing_class
from hf_unlearn.pipeline.audit_job import AuditArguments, cost_of_retraining, load_models, load_sets
from tests.support.data import image_data


def options(folders, **changes):
    sources = {"original": folders / "original", "unlearned": folders / "original"}
    rows = {"forget": f"{folders / 'data'}:train", "test": f"{folders / 'data'}:test"}
    return AuditArguments(**{**{k: str(v) for k, v in sources.items()}, **rows, **changes})


def test_classes_and_values_divide_the_rows_into_forget_and_retain_set(folders):
    sets = load_sets(options(folders))
    assert (len(sets["forget"]), len(sets["test"]), sets["retain"]) == (96, 96, None)
    sets = load_sets(options(folders, forget_class=["1"]))
    assert (set(sets["forget"]["label"]), set(sets["retain"]["label"])) == ({1}, {0, 2, 3})
    sets = load_sets(options(folders, forget_column="user", forget_values=["user-3", "user-8"]))
    assert list(sets["forget"]["user"]) == ["user-3", "user-8"]
    assert len(sets["retain"]) == 94
    sets = load_sets(options(folders, forget_class=["1"], retain=f"{folders / 'data'}:test"))
    assert len(sets["retain"]) == 96  # as given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_class": ["7"]}, "`forget_class='7'` is no class"),
        ({"forget_values": ["user-3"]}, "`forget_values` needs `forget_column`"),
        ({"forget_column": "user"}, "`forget_column='user'` needs `forget_values`"),
        ({"forget_column": "usr", "forget_values": ["user-3"]}, "`forget_column='usr'` is not a column"),
    ],
)
def test_an_error_names_the_option_that_was_typed(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        load_sets(options(folders, **changes))


def test_a_model_that_cannot_be_loaded_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match=r"`retrained\[1\]=.*missing'`: there is no such file or folder"):
        load_models(
            options(folders, use_cpu=True, retrained=[str(folders / "original"), str(tmp_path / "missing")]),
            image_data(4),
        )


def test_a_level_outside_its_bounds_is_refused(folders, capsys):
    with pytest.raises(ValueError, match=r"`alpha` must lie strictly between 0 and 0\.5, got 0\.5"):
        options(folders, alpha=0.5)
    words = [w for name in ("original", "unlearned", "forget", "test") for w in (f"--{name}", "x")]
    assert main(["audit", *words, "--alpha", "0"]) == 2
    assert "`alpha`" in capsys.readouterr().err
    assert main(["audit", *words, "--budget", "soon"]) == 2
    assert "`budget='soon'` is no length of time" in capsys.readouterr().err
    assert main(["audit", *words, "--audit_seed", "-1"]) == 2
    assert "`audit_seed` is a number from 0 on, got -1" in capsys.readouterr().err


def test_each_model_comes_with_its_own_image_processor(folders, tmp_path, caplog):
    other = load_processing_class(str(folders / "original"), image_data(4))
    other.image_mean = [0.1, 0.2, 0.3]
    for name, processor in (("other", other), ("bare", None)):
        shutil.copytree(folders / "original", tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").unlink()
        if processor is not None:
            processor.save_pretrained(tmp_path / name)
    given = options(folders, use_cpu=True, unlearned=str(tmp_path / "other"), retrained=[str(tmp_path / "bare")])
    models, processing_class, own = load_models(given, image_data(4))
    assert list(models) == ["original", "unlearned", "retrained[0]"]
    assert (list(own), list(own["unlearned"].image_mean)) == (["unlearned"], [0.1, 0.2, 0.3])
    assert list(processing_class.image_mean) != [0.1, 0.2, 0.3]
    assert "`retrained[0]` holds no image processor or tokenizer" in caplog.text


def test_without_a_retrained_model_its_cost_is_told_where_the_trainer_left_it(tmp_path):
    assert cost_of_retraining(str(tmp_path)) == ""
    state = {"global_step": 375, "log_history": [{"loss": 1.0}, {"train_runtime": 81.4, "step": 375}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert "375 steps in 81 seconds" in cost_of_retraining(str(tmp_path))

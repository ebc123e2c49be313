"""Recipes and the command line: every key is checked, and bad input ends before anything is loaded."""

from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.run import parse

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*/*.yaml"))


def recipe(tmp_path, **keys):
    lines = {"model": "m", "dataset": "digits", "forget_class": "['3']", "output_dir": str(tmp_path / "out"), **keys}
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))
    return str(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_parses_and_names_something_to_forget(path):
    run, _, method = parse(["--config", str(path)])
    if method.needs_column:
        assert method.attribute
    else:
        assert run.request().describe()
    assert (Path(__file__).parents[1] / run.model_config).is_file()


def test_command_line_wins_and_numbers_are_numbers(tmp_path):
    config = recipe(tmp_path, train_learning_rate="5e-4", sigma=0.7)
    run, args, method = parse(["--config", config, "--sigma", "0.9", "--seed", "3"])
    assert (run.train_learning_rate, method.sigma, args.seed) == (5e-4, 0.9, 3)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"sigmaa": 1}, "`sigmaa`.*`sigma`"),
        ({"method": "magic"}, "`method='magic'`"),
        ({"sigma": -1}, "`sigma`"),
        ({"trust_region": 2}, "`trust_region`"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, keys, match):
    with pytest.raises(SystemExit, match=match):
        parse(["--config", recipe(tmp_path, **keys)])


def test_a_wrong_type_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--config", recipe(tmp_path, learning_rate="fast")])
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"forget_class": "['nine']"}, "`label='nine'`"), ({"train_split": "trian"}, "`train_split='trian'`")],
)
def test_bad_input_exits_with_2_before_the_model_is_read(tmp_path, capsys, keys, message):
    assert main(["run", "--config", recipe(tmp_path, **keys)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_a_model_is_refused(tmp_path, capsys):
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert main(["run", "--config", recipe(tmp_path)]) == 2
    assert "`output_dir=" in capsys.readouterr().err


def test_the_original_is_never_the_output(tmp_path, capsys):
    assert main(["run", "--config", recipe(tmp_path, model=str(tmp_path / "out" / "model"))]) == 2
    assert "would overwrite the original" in capsys.readouterr().err

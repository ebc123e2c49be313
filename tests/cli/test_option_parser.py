"""Values of a recipe never become options, repeated lists are gathered, and a word that is no option is named with the nearest one."""

import sys
from dataclasses import dataclass, field

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.option_parser import OptionParser
from hf_unlearn.cli.run import parse
from hf_unlearn.pipeline.recipe import read_recipe
from tests.support.recipes import write_recipe


@dataclass
class Walk:
    to: str
    steps: int = 7
    fast: bool = False
    names: list[str] | None = field(default=None)


def read(*words, **recipe):
    (walk,) = OptionParser(Walk, prog="walk").read(words, recipe)
    return walk


HOSTILE = [
    "--max_steps=1",
    "-h",
    "--help",
    "-u7",
    "--",
    "-7",
    "--config",
    "--method=retrain",
    "@file",
    "-",
    "--num-processes",
    "a b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_of_a_recipe_is_never_an_option(tmp_path, value):
    for given in (f"[u003, '{value}']", f"['{value}', u003]"):
        config = write_recipe(tmp_path, forget_column="user", forget_values=given)
        run, args, method = parse(["--config", config])
        assert run.forget_values == read_recipe(config)["forget_values"]
        assert sorted(run.forget_values) == sorted(["u003", value])
        assert (args.max_steps, args.method, method.name) == (None, "surrogate_distillation", "surrogate_distillation")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_text_of_a_recipe_is_never_an_option(tmp_path, value):
    run, _, _ = parse(["--config", write_recipe(tmp_path, forget_column=f"'{value}'", forget_values="[a]")])
    assert run.forget_column == value


def test_the_command_line_replaces_a_list_and_gathers_one_that_stands_twice():
    assert read("--to", "x", names=["a", "b"]).names == ["a", "b"]
    assert read("--to", "x", "--names", "c", names=["a", "b"]).names == ["c"]
    assert read("--to", "x", "--names", "c", "d", "--names=-u7", names=["a"]).names == ["c", "d", "-u7"]
    assert read("--steps", "2", to="x", steps="3", fast="on") == Walk("x", 2, True)


@pytest.mark.parametrize(
    ("words", "recipe", "message"),
    [
        (["--step", "2"], {}, "`--step` is no option of `walk`. Did you mean `--steps`?"),
        (["--stesp=2"], {}, "`--stesp` is no option of `walk`. Did you mean `--steps`?"),
        (["--unlike", "2"], {}, "`--unlike` is no option of `walk`."),
        (["--unlike", "2"], {}, "`walk --help` explains the options"),
        (["far"], {}, "`far` belongs to no option of `walk`"),
        (["--names", "u1", "-u7"], {}, "`-u7` belongs to no option.*`--option=-value`"),
        ([], {"steps": ["1", "2"]}, "`steps` in the recipe takes one value, and there is a list of 2"),
    ],
)
def test_what_is_no_option_is_named(words, recipe, message):
    with pytest.raises(SystemExit, match=message.replace("?", r"\?")):
        read("--to", "x", *words, **recipe)


def test_a_misspelt_option_is_named_before_a_missing_one():
    with pytest.raises(SystemExit, match=r"`--too` is no option of `walk`. Did you mean `--to`\?"):
        OptionParser(Walk, prog="walk").read(["--too", "x"])
    with pytest.raises(SystemExit, match=r"`--to` is missing. `walk --help` explains"):
        OptionParser(Walk, prog="walk").read(["--steps", "3"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"steps": "many"}, "argument --steps: invalid int value: 'many'"),
        ({"steps": {"a": 1}}, "argument --steps: invalid int value"),
        ({"fast": "perhaps"}, "argument --fast: Truthy value expected"),
        ({"to": "x", "steps": "1" * 5000}, "argument --steps: invalid int value"),
    ],
)
def test_a_wrong_type_in_a_recipe_is_named(capsys, recipe, message):
    with pytest.raises(SystemExit):
        read("--to", "x", **recipe)
    assert message in capsys.readouterr().err


def test_a_wrong_choice_in_a_recipe_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--config", write_recipe(tmp_path, lr_scheduler_type="lineal")])
    assert "--lr_scheduler_type" in (error := capsys.readouterr().err)
    assert "'linear'" in error


def test_options_have_the_names_that_they_have_in_other_trainers_too(tmp_path):
    names = {"model_name_or_path": "m", "dataset_name": "digits"}
    words = [word for name, value in names.items() for word in (f"--{name}", value)]
    hyphens = [word.replace("_", "-") for word in words]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in names.items()))
    for start in (words, hyphens, ["--config", str(recipe)]):
        run, _, _ = parse([*start, "--forget_class", "3", "--output_dir", "out"])
        assert (run.model, run.dataset) == ("m", "digits")
    run, _, _ = parse(["--config", str(recipe), "--model", "other", "--forget_class", "3"])
    assert run.model == "other"


def test_two_names_of_one_option_in_a_recipe_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="`dataset_name` and `dataset` in the recipe are the same option"):
        parse(["--config", write_recipe(tmp_path, dataset_name="digits")])


@dataclass
class Climb:
    rope: float = 1.0
    knots: int = 0

    def __post_init__(self):
        if self.rope > 9:
            raise KeyError("too long")
        if self.knots > 9:
            raise ValueError("`knots` must be at most 9.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rope", "10"], r"^`rope`: 'too long'\. Correct it, or leave it out\.$"),
        (["--rope", "10", "--steps", "9"], "^`rope`: "),
        (["--knots", "10"], r"^`knots` must be at most 9\.$"),
    ],
)
def test_an_error_that_names_no_option_gets_the_name_of_the_one_that_causes_it(words, message):
    with pytest.raises(SystemExit, match=message):
        OptionParser((Walk, Climb), prog="walk").read(["--to", "x", *words])


def test_no_options_come_from_a_file_beside_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "hf-unlearn")])
    (tmp_path / "hf-unlearn.args").write_text("--steps 99")
    assert read("--to", "x").steps == 7


def test_an_audit_names_a_misspelt_option(capsys):
    assert (
        main(["audit", "--original", "a", "--unlearned", "b", "--forget", "c", "--test", "d", "--forget_clas", "1"])
        == 2
    )
    assert "Did you mean `--forget_class`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gradient_checkpointing_kwargs", "abc", "must be a mapping as JSON.*Got 'abc'"),
        ("lr_scheduler_kwargs", "[1]", "must be a mapping"),
        ("activation_checkpointing_kwargs", "", "must be a mapping"),
        ("accelerator_config", '{"a": ', "must be a mapping"),
        ("peft_config", '{"a": [' * 15 + "1" + "]}" * 15, "more than 20"),
        ("bias_labels", '{"a":' * 20_000, "100,000 characters|more than 20"),
        ("fsdp_config", '{"a": "' + "x" * 100_000 + '"}', "100,009 characters"),
    ],
)
def test_a_mapping_on_the_command_line_is_checked_before_it_is_read(tmp_path, name, value, message):
    with pytest.raises(SystemExit, match=f"`{name}` (has|holds)?.*({message})"):
        parse(["--config", write_recipe(tmp_path), f"--{name}={value}"])


def test_brackets_in_a_text_are_no_nesting(tmp_path):
    given = '{"min_lr": 0.5, "note": "[[[[[[[[[[[[[[[[[[[[[[[[{{{{ \\" ["}'
    _, args, _ = parse(["--config", write_recipe(tmp_path), "--lr_scheduler_kwargs", given])
    assert args.lr_scheduler_kwargs["min_lr"] == 0.5

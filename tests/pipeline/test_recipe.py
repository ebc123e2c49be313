"""Recipes: text stays as it was written, and what stands twice, or has no value, is refused."""

import json
from pathlib import Path

import pytest

from hf_unlearn.cli.run import parse
from hf_unlearn.pipeline.recipe import read_recipe
from tests.support.recipes import write_recipe


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[0123, 12:30, yes, 1_0, 2020-01-01, 1.50]", ["0123", "12:30", "yes", "1_0", "2020-01-01", "1.50"]),
        ("['0123', \"null\"]", ["0123", "null"]),
        ("0123", ["0123"]),
    ],
)
def test_identifiers_stay_as_they_were_written(tmp_path, written, read):
    config = write_recipe(tmp_path, forget_column="no", forget_values=written, save_strategy="no")
    run, args, _ = parse(["--config", config])
    assert (run.forget_column, run.forget_values, args.save_strategy) == ("no", read, "no")


def test_mappings_have_numbers_and_texts(tmp_path):
    adapter = "{peft_type: LORA, r: 4, lora_dropout: 0.5, use_dora: true, target_modules: [query, value]}"
    config = write_recipe(tmp_path, peft_config=adapter, bias_column="p", bias_labels="{010: 2}")
    run, _, _ = parse(["--config", config])
    expected = {
        "peft_type": "LORA",
        "r": 4,
        "lora_dropout": 0.5,
        "use_dora": True,
        "target_modules": ["query", "value"],
    }
    assert json.loads(run.peft_config) == expected
    assert json.loads(run.bias_labels[0]) == {"010": 2}


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("max_steps: 2\nmax_steps: 3\n", "`max_steps` stands twice.*line 6"),
        ("bias_labels: {a: 1, a: 2}\n", "`a` stands twice"),
        ("retrain:\n", "`retrain` has no value"),
        ("retrain: ~\n", "`retrain` has no value"),
        ("forget_values: []\n", "`forget_values` has no value"),
        ("forget_values: [u1, null]\n", "`forget_values` has no value"),
        ("forget_values: [[u1]]\n", "`forget_values`.*flat list"),
        ("? [a, b]\n: 3\n", "key in line 5 .*is no name"),
        ("bias_labels: {{a: 1}: 2}\n", "key in line 5 .*is no name"),
    ],
)
def test_a_key_that_stands_twice_or_has_no_value_is_refused(tmp_path, lines, match):
    config = Path(write_recipe(tmp_path))
    config.write_text(config.read_text() + lines)
    with pytest.raises(SystemExit, match=match):
        read_recipe(config)


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="needs the path of a YAML recipe"):
        read_recipe(tmp_path / "missing.yaml")
    for text, match in (("- a\n- b\n", "must be a mapping"), ("a: [1\n", "no valid YAML")):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(SystemExit, match=match):
            read_recipe(tmp_path / "recipe.yaml")


def test_on_and_off_are_true_and_false_only_for_fields_that_are_true_or_false(tmp_path):
    switched = {"figures": "off", "retrain": "On", "bf16": "off", "tf32": "off", "gradient_checkpointing": "on"}
    texts = {"dataset_config": "off", "forget_column": "on", "forget_values": "[off]"}
    run, args, _ = parse(["--config", write_recipe(tmp_path, **switched, **texts)])
    assert (run.figures, run.retrain, args.bf16, args.tf32, args.gradient_checkpointing) == (
        False,
        True,
        False,
        False,
        True,
    )
    assert (run.dataset_config, run.forget_column, run.forget_values) == ("off", "on", ["off"])


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BOMB, r"alias `\*a`. Write it out"),
        ("a: &a [*a]\n", r"alias `\*a`"),
        (f"a: &a {'x' * 1000}\nb: [{','.join(['*a'] * 2000)}]\n", "1,000,000 characters with its aliases"),
        ("".join(" " * i + "a:\n" for i in range(900)), "more than 20 lists and mappings"),
        ("- " * 400_000, "more than 20 lists and mappings"),
        ("? " * 400_000, "more than 20 lists and mappings"),
        (f"a: {'[' * 500}{']' * 500}\n", "more than 20 lists and mappings"),
        (f"a: {'[' * 100_000}\n", "more than 20 lists and mappings|no valid YAML"),
        ("#" * 1_000_001, "1,000,001 bytes.*`forget_ids_file`"),
    ],
)
def test_what_is_too_large_or_nested_is_refused_before_it_is_built(tmp_path, monkeypatch, text, match):
    monkeypatch.setattr("yaml.compose", lambda *_, **__: pytest.fail("something was built"))
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SystemExit, match=match):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_text_may_be_repeated_by_an_alias(tmp_path):
    (tmp_path / "recipe.yaml").write_text("\ufeffmodel: &m folder\ndataset: *m\n", encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml") == {"model": "folder", "dataset": "folder"}


@pytest.mark.parametrize(
    "value", ["2020-01-01", "2020-13-45", "!!binary aGk=", ".nan", "-.inf", "9" * 6000, "!!set {x}"]
)
def test_a_value_in_a_mapping_that_json_lacks_is_named(tmp_path, value):
    with pytest.raises(SystemExit, match=r"`peft_config` in the recipe has a value in line 5.*Put a text in quotes"):
        read_recipe(write_recipe(tmp_path, peft_config=f"{{r: 4, x: {value}}}"))

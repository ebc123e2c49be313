"""The keys of a recipe: bad values are named, and the request is what the `forget_*` keys say."""

import pytest

from hf_unlearn import ForgetRequest
from hf_unlearn.cli.run import parse
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.recipes import write_recipe


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_batch_size", "0", "at least 1"),
        ("train_epochs", "-1", "above 0, got -1.0"),
        ("train_learning_rate", "0", "above 0"),
        ("train_rows", "0", "at least 1"),
        ("test_rows", "0", "at least 1"),
        ("label_column", "", "is empty"),
    ],
)
def test_values_that_switch_something_off_or_fail_late_are_refused(tmp_path, key, value, message):
    with pytest.raises(SystemExit, match=f"`{key}`.*{message}"):
        parse(["--config", write_recipe(tmp_path), f"--{key}", value])


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"forget_class": ["3"]}, "class"),
        ({"forget_class": ["3"], "forget_fraction": 0.5}, "samples"),
        ({"forget_class": ["3"], "forget_column": "user", "forget_values": ["u1"]}, "samples"),
        ({"forget_fraction": 0.1}, "samples"),
    ],
)
def test_a_request_for_whole_classes_is_of_kind_class(keys, kind):
    assert RunArguments(model="m", dataset="d", **keys).kind == kind


def test_the_forget_keys_are_the_request():
    run = RunArguments("m", "d", forget_column="user", forget_ids_file="ids.txt", forget_seed=5, label_column="y")
    assert run.request() == ForgetRequest(column="user", ids_file="ids.txt", seed=5, label_column="y")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("text", "text"),
        (["text"], "text"),
        (["premise", "hypothesis"], "premise,hypothesis"),
        (["a,b"], "a,b"),
    ],
)
def test_two_columns_of_texts_are_kept_as_one_text_that_a_card_can_show(given, kept):
    assert RunArguments("m", "d", text_column=given).text_column == kept


@pytest.mark.parametrize("words", [["premise", "hypothesis"], ["premise,hypothesis"]])
def test_the_command_line_takes_two_columns_of_texts(words):
    options = ["--model", "m", "--dataset", "d", "--forget_class", "1", "--output_dir", "out"]
    run, _, _ = parse([*options, "--text_column", *words])
    assert run.text_column == "premise,hypothesis"


@pytest.mark.parametrize(
    ("given", "count"), [("true", 1), ("On", 1), ("1", 1), ("yes", 1), ("off", 0), ("0", 0), ("3", 3), (None, 0)]
)
def test_retrain_is_a_switch_or_a_number_of_models(tmp_path, given, count):
    from_recipe, *_ = parse(["--config", write_recipe(tmp_path, retrain=given)])
    from_words, *_ = parse(["--config", write_recipe(tmp_path), *([] if given is None else ["--retrain", given])])
    assert from_recipe.retrain == from_words.retrain == count
    assert (
        isinstance(from_words.retrain, bool) == isinstance(from_recipe.retrain, bool) == (count < 2)
    )  # as recorded before
    assert parse(["--config", write_recipe(tmp_path), "--retrain"])[0].retrain is True


@pytest.mark.parametrize("given", ["-1", "2.5", "many", "1" * 5000])
def test_another_number_of_models_to_retrain_is_refused(tmp_path, capsys, given):
    for words in (
        ["--config", write_recipe(tmp_path), f"--retrain={given}"],
        ["--config", write_recipe(tmp_path, retrain=f"'{given}'")],
    ):
        with pytest.raises(SystemExit):
            parse(words)
        assert "--retrain: give true, false or a whole number, got '" in capsys.readouterr().err
    for number in (-2, 101):
        with pytest.raises(
            ValueError, match=f"`retrain` must be true, false or a number of models, 100 at most, got {number}"
        ):
            RunArguments(model="m", dataset="d", retrain=number)

from dataclasses import dataclass

import pytest

from hf_unlearn.utils.argument_checks import (
    check_counts,
    check_finite,
    check_not_empty,
    check_positive,
    did_you_mean,
    renamed,
)


@dataclass
class Settings:
    steps: int | None = None
    rate: float | None = None
    passes: int = 1
    name: str | None = "a"


def test_values_in_range_and_none_pass():
    for settings in (Settings(), Settings(None, None, 1, None), Settings(10, 1e-9, 2, " ")):
        check_counts(settings, "steps")
        check_positive(settings, "rate", "steps")
        check_not_empty(settings)
        check_finite(settings)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(rate):
    with pytest.raises(ValueError, match=f"`rate` must be a finite number, got {rate}"):
        check_finite(Settings(rate=rate))


@pytest.mark.parametrize("steps", [0, -3])
def test_counts_below_one_are_refused(steps):
    with pytest.raises(ValueError, match=f"`steps` must be at least 1, got {steps}"):
        check_counts(Settings(steps=steps), "steps")


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_numbers_that_are_not_positive_are_refused(rate):
    with pytest.raises(ValueError, match="`rate` must be above 0, got"):
        check_positive(Settings(rate=rate), "steps", "rate")


def test_none_is_refused_where_it_is_not_the_default():
    with pytest.raises(ValueError, match="`passes` must be at least 1, got None"):
        check_counts(Settings(passes=None), "passes")


def test_empty_texts_are_refused():
    with pytest.raises(ValueError, match="`name` is empty"):
        check_not_empty(Settings(name=""))


def test_the_nearest_known_name_is_suggested():
    assert did_you_mean("colour", ["color", "size"]) == " Did you mean `color`?"
    assert did_you_mean("weight", ["color", "size"]) == ""


def test_an_error_names_what_the_user_typed():
    told = r"^`forget_class='a `x`'` is none. Give `forget_class` or `index`: 'label'\.$"
    with pytest.raises(ValueError, match=told), renamed({"label": "forget_class"}):
        raise ValueError("`label='a `x`'` is none. Give `label` or `index`: 'label'.")
    with pytest.raises(FileNotFoundError, match="`--key`: none"), renamed({"key": "--key"}):
        raise FileNotFoundError("`key`: none")
    with pytest.raises(TypeError, match="`label`"), renamed({"label": "forget_class"}):
        raise TypeError("`label`")

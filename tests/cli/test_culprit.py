"""An error of a dataclass names the option that causes it."""

from dataclasses import dataclass

import pytest

from hf_unlearn.cli.culprit import with_option


@dataclass
class Settings:
    size: int = 1
    kind: str = "a"
    token: str | None = None

    def __post_init__(self):
        if self.kind not in ("a", "b"):
            raise KeyError("no such thing")
        if self.size > self.__class__.limit:
            raise ValueError("too large")


Settings.limit = 10


@dataclass
class Others:
    depth: int = 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "c", "token": "t", "depth": 3}, "`kind`: 'no such thing'. Correct it, or leave it out."),
        ({"kind": "b", "size": 11, "depth": 3}, "`size`: too large. Correct it, or leave it out."),
        ({"kind": "c", "size": 11}, "'no such thing'"),  # two causes: neither alone is the one
    ],
)
def test_the_option_without_which_there_is_no_error_is_named(given, message):
    values = {"size": 1, "kind": "a", "token": None, "depth": 2, **given}
    try:
        Settings(**{name: values[name] for name in ("size", "kind", "token")})
    except Exception as error:
        said = with_option(error, (Others, Settings), values)
    assert said == message


@pytest.mark.parametrize("message", ["`size` is wrong.", "--size needs more", "max_size must be 3"])
def test_a_message_that_names_an_option_is_not_searched_for_one(message):
    said = with_option(ValueError(message), (Settings,), {"size": 11, "max_size": 3})
    assert said == (message if message.startswith("`") else f"{message}. Correct it, or leave it out.")

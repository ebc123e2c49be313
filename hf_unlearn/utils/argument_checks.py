"""Checks of numbers and texts that would otherwise switch something off silently, or fail late in a run."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any


def check_counts(arguments: Any, *names: str) -> None:
    """Raise ValueError if one of these fields is below 1. None is allowed where it is the default."""
    _check(arguments, names, lambda given: given >= 1, "at least 1")


def check_positive(arguments: Any, *names: str) -> None:
    """Raise ValueError if one of these fields is not above 0. None is allowed where it is the default."""
    _check(arguments, names, lambda given: given > 0, "above 0")


def _check(arguments: Any, names: Sequence[str], fits: Callable[[Any], bool], what: str) -> None:
    defaults = {f.name: f.default for f in fields(arguments)}
    for name in names:
        given = getattr(arguments, name)
        if not (defaults[name] is None if given is None else fits(given)):
            raise ValueError(f"`{name}` must be {what}, got {given}.")


def check_finite(arguments: Any) -> None:
    """Raise ValueError if a field of the dataclass is NaN or infinite."""
    for name in (f.name for f in fields(arguments) if f.init):
        given = getattr(arguments, name)
        if isinstance(given, float) and not math.isfinite(given):
            raise ValueError(f"`{name}` must be a finite number, got {given}.")


def check_not_empty(arguments: Any) -> None:
    """Raise ValueError if a field of the dataclass is an empty text."""
    for name in (f.name for f in fields(arguments)):
        if getattr(arguments, name) == "":
            raise ValueError(f"`{name}` is empty. Give it a value, or leave it out for its default.")


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, an error that names an argument in backticks gets the name that the user typed: `names[argument]`."""
    try:
        yield
    except (ValueError, OSError) as error:
        argument = rf"`({'|'.join(names)})(?=[`=:])"
        told = re.sub(argument, lambda found: f"`{names[found[1]]}", str(error))
        if told != str(error):
            error.args = (told,)
        raise


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return " Did you mean `…`?" with the nearest of the `known` names, or "" if none is near."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""

"""Checks of numbers and texts that would otherwise switch something off silently, or fail late in a run."""

from dataclasses import fields
from typing import Any


def check_counts(arguments: Any, *names: str) -> None:
    """Raise ValueError if one of these fields is below 1. None is allowed."""
    for name in names:
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ValueError(f"`{name}` must be at least 1, got {given}.")


def check_positive(arguments: Any, *names: str) -> None:
    """Raise ValueError if one of these fields is not above 0. None is allowed."""
    for name in names:
        given = getattr(arguments, name)
        if given is not None and not given > 0:
            raise ValueError(f"`{name}` must be above 0, got {given}.")


def check_not_empty(arguments: Any) -> None:
    """Raise ValueError if a field of the dataclass is an empty text."""
    for name in (f.name for f in fields(arguments)):
        if getattr(arguments, name) == "":
            raise ValueError(f"`{name}` is empty. Give it a value, or leave it out for its default.")

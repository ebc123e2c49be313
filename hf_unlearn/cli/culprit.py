"""Find the option that an error of a dataclass is about, where its message does not name one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

REMEDY = "Correct it, or leave it out."


def with_option(error: Exception, classes: Sequence[Callable[..., Any]], given: Mapping[str, Any]) -> str:
    """Return the message of `error`, which one of the dataclasses raised, with the name of the option that causes it.

    The option is found by leaving out one after another: without the cause there is no error. Its value is not shown, because it
    may be a token.

    Args:
        given: the values of all options, by name.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    if any(re.search(rf"`{name}\b|--{name}\b" + (rf"|\b{name}\b" if "_" in name else ""), message) for name in given):
        return message if message.startswith("`") else f"{message.rstrip('.')}. {REMEDY}"
    for kind in classes:
        values = {f.name: given[f.name] for f in fields(kind) if f.init and f.name in given}  # type: ignore[arg-type]
        if not _fails(kind, values):
            continue
        defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]
        for name in (n for n in values if n in defaults and values[n] != defaults[n]):
            if not _fails(kind, {**values, name: defaults[name]}):
                return f"`{name}`: {message.rstrip('.')}. {REMEDY}"
    return message


def _fails(kind: Callable[..., Any], values: Mapping[str, Any]) -> bool:
    try:
        kind(**values)
    except Exception:
        return True
    return False

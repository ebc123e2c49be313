"""`OptionParser`: fields of dataclasses, from a recipe and from the command line."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..utils.argument_checks import did_you_mean
from ..utils.safe_text import shown

SWITCH_WORDS = {"on": "true", "off": "false"}  # YAML writes true and false in this way too


class Gathered(argparse.Action):
    """Collect the values of an option that stands several times. They replace those of the recipe."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


class OptionParser(HfArgumentParser):
    """Read fields of dataclasses from words of a command line, and from a recipe, whose values are never read as options."""

    def __init__(self, classes: Any, **settings: Any) -> None:
        self.options: dict[str, argparse.Action] = {}
        super().__init__(classes, **settings, allow_abbrev=False)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        if settings.get("nargs") == "+":
            settings["action"] = Gathered
        action = super().add_argument(*names, **settings)
        self.options |= dict.fromkeys(names, action)
        return action

    def read(self, words: Sequence[str], recipe: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """Return the dataclasses, filled from `words`, from `recipe` for the fields that `words` do not name, and from defaults.

        Raises:
            SystemExit: a word is no option, a value has the wrong type, or one is missing; the message names it.
        """
        for name, given in (recipe or {}).items():
            action = self.options[f"--{name}"]
            action.default, action.required = self._converted(action, name, given), False
        *parts, unknown = self.parse_args_into_dataclasses(
            list(words), return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            raise SystemExit(self._unknown(unknown[0]))
        return tuple(parts)

    def _converted(self, action: argparse.Action, name: str, given: Any) -> Any:
        """Return the value of a recipe's entry as the option `--name` would give it."""
        values = given if isinstance(given, list) else [json.dumps(given) if isinstance(given, dict) else given]
        if action.nargs != "+" and len(values) > 1:
            raise SystemExit(f"`{name}` in the recipe takes one value, and there is a list of {len(values)}.")
        kind: Any = action.type or str
        if kind is string_to_bool:
            values = [SWITCH_WORDS.get(value.lower(), value) for value in values]
        try:
            converted = [kind(value) for value in values]
        except argparse.ArgumentTypeError as error:
            self.error(str(argparse.ArgumentError(action, str(error))))
        except (TypeError, ValueError):
            self.error(str(argparse.ArgumentError(action, f"invalid {kind.__name__} value: {shown(values[0])!r}")))
        if action.choices is not None and not set(converted) <= set(action.choices):
            known = ", ".join(map(repr, action.choices))
            self.error(
                str(argparse.ArgumentError(action, f"invalid choice: {shown(values[0])!r} (choose from {known})"))
            )
        return converted if action.nargs == "+" else converted[0]

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            return (
                f"`{shown(word)}` belongs to no option of `{self.prog}`. Put a value with spaces in quotes, and write a value that "
                "begins with `-` as `--option=-value`."
            )
        return f"`{shown(name)}` is no option of `{self.prog}`.{did_you_mean(name, self.options)}"

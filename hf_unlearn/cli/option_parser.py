"""`OptionParser`: fields of dataclasses, from a recipe and from the command line."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..utils.argument_checks import did_you_mean
from ..utils.safe_text import shown

JSON_LIMIT, JSON_DEPTH = 100_000, 20  # characters of a mapping, and lists and mappings inside each other
SWITCH_WORDS = {"on": "true", "off": "false"}  # YAML writes true and false in this way too


class Gathered(argparse.Action):
    """Collect the values of an option that stands several times. They replace those of the recipe."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


class OptionParser(HfArgumentParser):
    """Read fields of dataclasses from words of a command line, and from a recipe, whose values are never read as options."""

    def __init__(self, classes: Any, mappings: Mapping[str, bool] | None = None, **settings: Any) -> None:
        """`mappings` has the names of options that take a mapping as JSON: true for those that take nothing else."""
        self.options: dict[str, argparse.Action] = {}
        self.mappings = mappings or {}
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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        self.given = dict(vars(found))
        for name, takes_nothing_else in self.mappings.items():
            given = getattr(found, name, None)
            for text in given if isinstance(given, list) else [given]:
                if isinstance(text, str) and (takes_nothing_else or text.lstrip().startswith("{")):
                    check_json(text.strip(), f"`{name}`")
        return found, unknown

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
            self.error(str(argparse.ArgumentError(action, shown(error, 300))))
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


def check_json(text: str, what: str) -> None:
    """Raise SystemExit if `text` is too long, nested too deeply, or no JSON object. Size and depth are checked before it is read."""
    if len(text) > JSON_LIMIT:
        raise SystemExit(f"{what} has {len(text):,} characters, and a mapping may have {JSON_LIMIT:,}.")
    depth = 0
    for sign in re.sub(r'"(?:[^"\\]|\\.)*"|[^][{}]', "", text):
        depth += 1 if sign in "[{" else -1
        if depth > JSON_DEPTH:
            raise SystemExit(f"{what} holds more than {JSON_DEPTH} lists and mappings inside each other.")
    try:
        valid = isinstance(json.loads(text), dict)
    except ValueError:
        valid = False
    if not valid:
        raise SystemExit(
            f"{what} must be a mapping as JSON, in single quotes, such as '{{\"key\": 1}}'. Got {shown(text)!r}."
        )

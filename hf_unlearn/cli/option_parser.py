"""`OptionParser`: fields of dataclasses, from a recipe and from the command line."""

import argparse
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import Field
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..utils.safe_text import shown
from .culprit import with_option
from .parsers import CommandParser

JSON_LIMIT, JSON_DEPTH = 100_000, 20  # characters of a mapping, and lists and mappings inside each other
METAVARS = {str: "TEXT", int: "N", float: "X", string_to_bool: "true|false"}
SWITCH_WORDS = {"on": "true", "off": "false"}  # YAML writes true and false in this way too


def number_or_switch(text: str) -> int:
    """Return a whole number as it is, and true and false for a switch. 1 and 0 are true and false, so that both are recorded alike."""
    try:
        number = int(text) if text.isdecimal() else int(string_to_bool(SWITCH_WORDS.get(text.lower(), text)))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"give true, false or a whole number, got {shown(text, 40)!r}") from error
    return number if number > 1 else bool(number)


def names_of(field: Field[Any]) -> list[str]:
    """Return the name of an option and its aliases, as keys of a recipe."""
    return [field.name, *(alias.lstrip("-") for alias in field.metadata.get("aliases", ()))]


class Gathered(argparse.Action):
    """Collect the values of an option that stands several times. They replace those of the recipe."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


class OptionParser(CommandParser, HfArgumentParser):
    """Read fields of dataclasses from words of a command line, and from a recipe, whose values are never read as options."""

    def __init__(
        self,
        classes: Any,
        mappings: Mapping[str, bool] | None = None,
        groups: Mapping[str, str] | None = None,
        page: Container[str] | None = None,
        elsewhere: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Add an option for each field of `classes`.

        Args:
            mappings: names of options that take a mapping as JSON: true for those that take nothing else. Default None: none.
            groups: the title under which `--help` shows an option, by its name, in the order of the titles. Default None: no titles.
            page: names of the options that `--help` shows. Default None: all.
            elsewhere: what to say of names that are no options here. Default None: nothing.
        """
        self.mappings, self.groups, self.page, self.elsewhere = mappings or {}, groups or {}, page, elsewhere or {}
        self.titled: dict[str, Any] = {}
        self.given: dict[str, Any] = {}
        super().__init__(classes, **settings)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        name = settings.get("dest", names[0].lstrip("-"))
        settings.pop("group", None)  # of a field's metadata
        if settings.pop("counts", False):  # without a value it is true
            settings |= {"type": number_or_switch, "metavar": "true|false|N", "nargs": "?", "const": True}
        if settings.get("nargs") == "+":
            settings["action"] = Gathered
        if "action" not in settings or settings["action"] is Gathered:
            metavar = "JSON" if self.mappings.get(name) else METAVARS.get(settings.get("type", str))
            settings = {"metavar": metavar, **settings}
        hidden = self.page is not None and (name not in self.page or settings.get("action") == "store_false")
        if hidden and name in self.groups:
            settings["help"] = argparse.SUPPRESS
        return self._group(name).add_argument(*names, **settings)

    def _group(self, name: str) -> Any:
        """Return the place of an option on the help page. All places are made with the first option, in the order of their titles."""
        if name not in self.groups:
            return super()
        if not self.titled:
            self.titled = {title: self.add_argument_group(title) for title in dict.fromkeys(self.groups.values())}
        return self.titled[self.groups[name]]

    def read(self, words: Sequence[str], recipe: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """Return the dataclasses, filled from `words`, from `recipe` for the fields that `words` do not name, and from defaults.

        Raises:
            SystemExit: a word is no option, a value has the wrong type, or one is missing; the message names it.
        """
        named: dict[str, str] = {}
        for name, given in (recipe or {}).items():
            action = self._option_string_actions[f"--{name}"]
            if named.setdefault(action.dest, name) != name:
                raise SystemExit(f"`{name}` and `{named[action.dest]}` in the recipe are the same option. Keep one.")
            action.default, action.required = self._converted(action, name, given), False
        try:
            return tuple(self.parse_args_into_dataclasses(list(words), look_for_args_file=False))
        except Exception as error:
            raise SystemExit(with_option(error, self.dataclass_types, self.given)) from error

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        self.given = dict(vars(found))
        for name, takes_nothing_else in self.mappings.items():
            given = getattr(found, name, None)
            for text in given if isinstance(given, list) else [given]:
                if isinstance(text, str) and (takes_nothing_else or text.lstrip().startswith("{")):
                    check_json(text.strip(), f"`{name}`")
        return found, unknown

    def _describe_unknown(self, word: str) -> str:
        name = word.partition("=")[0].replace("-", "_").removeprefix("__")
        return self.elsewhere.get(name if word.startswith("--") else "") or super()._describe_unknown(word)

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

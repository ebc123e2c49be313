"""What the parsers of all commands share: their help pages, and errors that name what was typed and a remedy."""

import argparse
import re
from typing import Any, NoReturn

from ..utils.argument_checks import did_you_mean
from ..utils.safe_text import shown


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the examples, and show the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if any(option.startswith("--no_") for option in action.option_strings):  # `HfArgumentParser` adds these
            return f"Set `{action.dest}` to false."
        text = re.sub(r"(?<!%)%(?![(%])", "%%", action.help or "")  # argparse reads a percent sign as a placeholder
        unset = action.default in (None, [], argparse.SUPPRESS) or action.nargs == 0
        return text if unset else f"{text} (default: %(default)s)"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Name the values once, and leave out the twin with hyphens of an option with underscores."""
        names = list(action.option_strings)
        names = [n for n in names if "-" not in n[2:] or f"--{n[2:].replace('-', '_')}" not in names]
        values = self._format_args(action, action.dest.upper()) if names and action.nargs != 0 else ""
        return f"{', '.join(names)} {values}".strip() if names else super()._format_action_invocation(action)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors name what was typed and a remedy. A misspelt option is named before a missing one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the values and an empty list, because a word that belongs to no option is an error.

        Raises:
            SystemExit: a word belongs to no option, or an option is missing.
        """
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise SystemExit(self._describe_unknown(unknown[0]))
        missing = [action for action in required if getattr(found, action.dest) is None]
        if missing:
            names = [next(iter(a.option_strings), a.metavar or "|".join(a.choices or [a.dest])) for a in missing]
            told = ", ".join(f"`{name}`" for name in names)
            raise SystemExit(f"{told} {'is' if len(names) == 1 else 'are'} missing.{self._hint}")
        return found, []

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.nargs is None and arg_strings == ["--"]:  # argparse would give an empty list
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Print the usage, `message` and what to do. The exit code is 2."""
        if message.endswith(("expected one argument", "expected at least one argument")):
            message += ", and one that begins with `-` is written as `--option=-value`"
        super().error(f"{message}.{self._hint}")

    @property
    def _hint(self) -> str:
        return f" `{self.prog} --help` explains the options."

    def _describe_unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            return (
                f"`{shown(word)}` belongs to no option of `{self.prog}`. Put a value with spaces in quotes, and write a value that "
                "begins with `-` as `--option=-value`."
            )
        near = did_you_mean(name, self._option_string_actions)
        return f"`{shown(name)}` is no option of `{self.prog}`.{near or self._hint}"


def parser_settings(command: str, description: str, *examples: str) -> dict[str, Any]:
    """Return arguments of `CommandParser`. An example is the words after the command, or an indented further line."""
    lines = [line if line.startswith(" ") else f"hf-unlearn {command} {line}".rstrip() for line in examples]
    return {
        "prog": f"hf-unlearn {command}",
        "description": description,
        "epilog": "\n  ".join(["examples:", *lines]),
        "formatter_class": HelpFormatter,
    }

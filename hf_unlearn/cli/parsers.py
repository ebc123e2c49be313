"""The settings that the parsers of all commands share."""

import argparse
import re
from typing import Any


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the examples, and show the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if any(option.startswith("--no_") for option in action.option_strings):  # `HfArgumentParser` adds these
            return f"Set `{action.dest}` to false."
        text = re.sub(r"(?<!%)%(?![(%])", "%%", action.help or "")  # argparse reads a percent sign as a placeholder
        unset = action.default is None or action.default == [] or action.nargs == 0
        return text if unset else f"{text} (default: %(default)s)"


def parser_settings(command: str, description: str, *examples: str) -> dict[str, Any]:
    """Return arguments of `argparse.ArgumentParser`. An example is the words after the command, or an indented further line."""
    lines = [line if line.startswith(" ") else f"hf-unlearn {command} {line}".rstrip() for line in examples]
    return {
        "prog": f"hf-unlearn {command}",
        "description": description,
        "epilog": "\n  ".join(["examples:", *lines]),
        "formatter_class": HelpFormatter,
    }

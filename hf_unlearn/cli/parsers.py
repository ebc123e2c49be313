"""The settings that the parsers of all commands share."""

from __future__ import annotations

import argparse
from typing import Any


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep the line breaks of the examples, and show the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is None or action.default == [] or action.nargs == 0
        return action.help if unset else super()._get_help_string(action)


def parser_settings(command: str, description: str, *examples: str) -> dict[str, Any]:
    """Return arguments of `argparse.ArgumentParser`. An example is the words after the command, or an indented further line."""
    lines = [line if line.startswith(" ") else f"hf-unlearn {command} {line}".rstrip() for line in examples]
    return {
        "prog": f"hf-unlearn {command}",
        "description": description,
        "epilog": "\n  ".join(["examples:", *lines]),
        "formatter_class": HelpFormatter,
    }

"""A recipe: a flat YAML file whose entries are read as if they stood on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A flat YAML mapping."""
    import yaml

    if not Path(path).is_file():
        raise SystemExit(f"`--config` needs a file, a YAML recipe: there is no {path or 'name'}.")
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise SystemExit(f"`--config`: {path} is no valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise SystemExit(f"`--config`: {path} must be a mapping of keys to values.")
    return recipe


def as_words(name: str, value: Any) -> list[str]:
    """A recipe's entry as command-line words, so that both are read and checked by the same parser."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]

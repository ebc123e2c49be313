"""Read a recipe: a flat YAML file whose keys are the names of options."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from ..utils.safe_text import shown

NULL = "tag:yaml.org,2002:null"
QUICK: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LIMIT = 1_000_000  # bytes of a recipe, also after its aliases are written out
DEPTH = 20  # lists and mappings inside each other


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the entries of a flat YAML mapping: texts, lists of texts, and mappings.

    Texts stay as they were written, because YAML would read an id `0123` as 83 and `yes` as true. In a mapping only the keys
    stay as they were written; its values are read as YAML.

    Raises:
        SystemExit: the file is missing, too large, nested too deeply or no valid YAML, or a key stands twice or has no value.
    """
    if not os.path.isfile(path):
        raise SystemExit(
            f"`--config` needs the path of a YAML recipe, and {shown(path) or 'none'} is no file. `hf-unlearn init` lists recipes, and "
            "writes one."
        )
    path = Path(path)
    if path.stat().st_size > LIMIT:
        raise SystemExit(
            f"`--config`: {path} has {path.stat().st_size:,} bytes, and a recipe may have {LIMIT:,}. Put many values into a file, one "
            "on each line, and name it with `forget_ids_file`."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        _check_size(text, f"`--config`: {path}")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise SystemExit(f"`--config`: {path} must be a mapping of keys to values.")
        return {name: _value(name, node) for name, node in _entries(root).items()}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SystemExit(f"`--config`: {path} is no valid YAML: {error}. Correct it, and save it as UTF-8.") from error


def _check_size(text: str, what: str) -> None:
    """Raise SystemExit if the YAML in `text` is nested too deeply, or grows by aliases. Nothing of it is built."""
    depth, size, anchors = 0, len(text), dict[str, int]()
    events: Any = yaml.parse(text, Loader=QUICK)
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise SystemExit(f"{what} holds more than {DEPTH} lists and mappings inside each other.")
        if isinstance(event, yaml.ScalarEvent) and event.anchor:
            anchors[event.anchor] = len(event.value)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise SystemExit(f"{what} repeats a list or a mapping by the alias `*{event.anchor}`. Write it out.")
            size += anchors[event.anchor]
        if size > LIMIT:
            raise SystemExit(f"{what} has more than {LIMIT:,} characters with its aliases written out.")


def _entries(mapping: yaml.MappingNode) -> dict[str, yaml.Node]:
    out: dict[str, yaml.Node] = {}
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise SystemExit(f"A key in line {line} of the recipe is no name, but a list or a mapping.")
        if key.value in out:
            raise SystemExit(f"`{key.value}` stands twice in the recipe, the second time in line {line}. Keep one.")
        out[key.value] = value
    return out


def _value(name: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key: _built(name, value) for key, value in _entries(node).items()}
    texts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not texts or any(text.tag == NULL for text in texts):
        raise SystemExit(
            f"`{name}` has no value in the recipe. Leave the line out, or put a text such as 'null' in quotes."
        )
    if not all(isinstance(text, yaml.ScalarNode) for text in texts):
        raise SystemExit(f"`{name}` in the recipe must be a value or a flat list of values.")
    return node.value if isinstance(node, yaml.ScalarNode) else [text.value for text in texts]


def _built(name: str, node: yaml.Node) -> Any:
    """Return the value of a mapping's entry as YAML reads it, if JSON has such values."""
    try:
        value = yaml.safe_load(yaml.serialize(node))
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, OverflowError) as error:  # such as dates, bytes, sets and numbers of 5,000 digits
        raise SystemExit(
            f"`{name}` in the recipe has a value in line {node.start_mark.line + 1} that is no finite number, text, true, false, "
            "list or mapping. Put a text in quotes."
        ) from error
    return value

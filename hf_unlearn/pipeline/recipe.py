"""Read a recipe: a flat YAML file whose keys are the names of options."""

from pathlib import Path
from typing import Any

import yaml

NULL = "tag:yaml.org,2002:null"


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the entries of a flat YAML mapping: texts, lists of texts, and mappings.

    Texts stay as they were written, because YAML would read an id `0123` as 83 and `yes` as true. In a mapping only the keys
    stay as they were written; its values are read as YAML.

    Raises:
        SystemExit: the file is missing or no valid YAML, or a key stands twice or has no value.
    """
    if not Path(path).is_file():
        raise SystemExit(f"`--config` needs the path of a YAML recipe, and {path or 'none'} is no file.")
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise SystemExit(f"`--config`: {path} must be a mapping of keys to values.")
        return {name: _value(name, node) for name, node in _entries(root).items()}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SystemExit(f"`--config`: {path} is no valid YAML: {error}") from error


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
        return {key: yaml.safe_load(yaml.serialize(value)) for key, value in _entries(node).items()}
    texts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not texts or any(text.tag == NULL for text in texts):
        raise SystemExit(
            f"`{name}` has no value in the recipe. Leave the line out, or put a text such as 'null' in quotes."
        )
    if not all(isinstance(text, yaml.ScalarNode) for text in texts):
        raise SystemExit(f"`{name}` in the recipe must be a value or a flat list of values.")
    return node.value if isinstance(node, yaml.ScalarNode) else [text.value for text in texts]

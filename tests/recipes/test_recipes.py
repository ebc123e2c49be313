"""The recipes of this repository can be run as they are."""

from pathlib import Path

import pytest

from hf_unlearn.cli.compare import read_arguments
from hf_unlearn.cli.run import parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name not in ("accelerate", "compare"))
COMPARISONS = sorted((ROOT / "recipes" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_parses_and_names_something_to_forget(path):
    run, _, method = parse(["--config", str(path)])
    if method.needs_column:
        assert method.attribute
    else:
        assert run.request().describe()
    if run.model_config is None:  # the original is fine-tuned from a base, as the first lines of the recipe say
        assert "--export " + str(Path(run.model).parent) in path.read_text("utf-8")
    else:
        assert (ROOT / run.model_config).is_file()


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_every_comparison_parses_and_says_how_its_original_is_made(path):
    arguments = read_arguments(["--config", str(path)])
    assert arguments.requests
    assert arguments.entries()
    made = arguments.mappings["options"].get("model_config")
    if made is None:
        assert "--export " + str(Path(arguments.model).parent) in path.read_text("utf-8")
    else:
        assert (ROOT / made).is_file()

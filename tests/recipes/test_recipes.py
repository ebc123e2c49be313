"""The recipes of this repository can be run as they are."""

from pathlib import Path

import pytest

from hf_unlearn.cli.run import parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name != "accelerate")


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

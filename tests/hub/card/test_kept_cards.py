"""The cards of the recipes in `model_cards/`: each is rendered again and compared byte for byte."""

import json
import re
import shutil
from pathlib import Path

import pytest
from cards import keep

from hf_unlearn.hub.card.evaluation_card import write_card
from hf_unlearn.hub.receipt import verify_folder
from tests.hub.card.support import figures_of, head, problems, report_of

pytestmark = pytest.mark.xdist_group("card of a run")

ROOT = Path(__file__).parents[3]
RENDERED = sorted((ROOT / "model_cards").glob("*/*/report.json"))


@pytest.mark.slow
def test_a_run_is_kept_in_few_bytes(run, tmp_path):
    card = keep(run.folder, tmp_path / "kept")
    assert card.read_text() == (run.folder / "README.md").read_text()
    kept = {p.name: p for p in card.parent.rglob("*") if p.is_file()}
    assert json.loads(kept["report.json"].read_text()) == report_of(run)
    assert {f"figures/{n}" for n in kept if n.endswith(".png")} == set(figures_of(run.folder))
    assert verify_folder(card.parent) == []
    assert sum(p.stat().st_size for p in kept.values()) < 80_000


def test_there_are_cards_of_recipes():
    assert RENDERED
    for path in RENDERED:
        assert (ROOT / "recipes" / path.parent.relative_to(ROOT / "model_cards")).with_suffix(".yaml").is_file()
    assert sum(p.stat().st_size for p in (ROOT / "model_cards").rglob("*") if p.is_file()) < 3e6


@pytest.mark.parametrize("path", RENDERED, ids=lambda p: f"{p.parent.parent.name}/{p.parent.name}")
def test_a_card_in_the_repository_is_that_of_its_report(path, tmp_path):
    folder = tmp_path / "card"
    shutil.copytree(path.parent, folder)
    before = (folder / "README.md").read_text()
    assert verify_folder(folder) == []
    assert write_card(folder).read_text() == before
    assert problems(head(before)) == []
    for file in folder.glob("*"):
        if file.is_file():
            assert not re.search(r"/(home|work|tmp|root|Users)/|[A-Z]:\\\\", file.read_text()), file

"""The house stays easy to enter: a small root, short files, a test file for each module, and a page that shows it."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn import metrics

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "hf_unlearn", ROOT / "tests"
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")

PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "recipes/README.md"]
PAGES += sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))

# Modules without a test file of their own, and where they are tested.
TESTED_ELSEWHERE = {
    "cli/__main__.py": "one line, which every test of a command in a fresh process runs",
    "methods/protocols.py": "no code; mypy checks that the trainer satisfies them",
    "training/protocols.py": "no code; mypy checks that the trainer satisfies them",
    **{
        f"metrics/{name}.py": "one `evaluate` class; tests/metrics/test_modules.py is a table over all of them"
        for name in metrics._NAMES.values()
    },
}


def test_the_root_of_the_package_has_few_entries():
    assert len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"]) <= 14


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_file_is_long(module):
    assert len((PACKAGE / module).read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_a_test_file_of_its_name(module):
    place = TESTS / module.parent / f"test_{module.name.removeprefix('_')}"
    assert place.is_file() != (module.as_posix() in TESTED_ELSEWHERE), f"{place.relative_to(ROOT)}, or the list here"


def test_a_module_on_the_list_is_there():
    assert {m.as_posix() for m in MODULES} >= {*TESTED_ELSEWHERE}


def test_no_test_file_is_long():
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in TESTS.rglob("test_*.py")}
    assert not {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 500}


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_the_pages_name_are_there(page):
    text = (ROOT / page).read_text("utf-8")
    files = {f for f in re.findall(r"[\w./-]+\.(?:py|yaml|toml|txt)\b", text) if "/" in f and "my_method" not in f}
    missing = {f for f in files if not any((base / f).exists() for base in (ROOT, PACKAGE, ROOT / "recipes"))}
    for name in set(re.findall(r"\bhf_unlearn(?:\.\w+)+", text)):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.add(name)
    assert not missing


def test_the_page_on_architecture_shows_the_code():
    pytest.importorskip("grimp", reason="the import graph needs import-linter, of the extra `dev`")
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    page = draw.PAGE.read_text("utf-8")
    assert draw.drawn(page) == page, "run: python docs/draw_architecture.py"
    assert draw.from_top_to_bottom({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    assert draw.direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]
    with pytest.raises(ValueError, match="circle"):
        draw.from_top_to_bottom({"a": {"b"}, "b": {"a"}})


def test_the_contracts_of_imports_hold():
    """As `make lint` checks them: a room imports only from rooms below it, and no files of a room form a circle."""
    command = Path(sys.executable).with_name("lint-imports")
    if not command.is_file():
        pytest.skip("needs import-linter, of the extra `dev`")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]

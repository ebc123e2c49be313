"""The pages: every snippet runs, what is drawn from the code is up to date, and the site builds."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

import hf_unlearn
from hf_unlearn import metrics
from tests.support.snippets import command, commands, make_world, run, snippets

ROOT = Path(__file__).parents[1]
PAGES = {p.name: p for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
SNIPPETS = {name: snippets(name, page.read_text("utf-8")) for name, page in PAGES.items()}
RUN = [name for name, blocks in SNIPPETS.items() if any(b.reason is None for b in blocks)]
QUICK = {"metrics.md"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RUN])
def test_the_snippets_of_a_page_run(name, world, hub, tmp_path, monkeypatch):
    if name == "README.md" and "docs/quickstart.md" not in PAGES[name].read_text("utf-8"):
        pytest.skip("this README has no snippets that run by themselves: they are on the pages of docs/")
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("HF_TOKEN", hub.token("my-org"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv(
        "HF_UNLEARN_RETRAINED_CACHE", str(world.with_name("retrained"))
    )  # pages retrain without the same rows
    run(SNIPPETS[name], name)


def test_what_is_not_run_has_a_reason():
    reasons = {b.where: b.reason for blocks in SNIPPETS.values() for b in blocks if b.reason is not None}
    assert reasons
    assert not [where for where, reason in reasons.items() if len(reason.split()) < 2]


def test_a_page_is_parted_into_its_snippets():
    text = '<!-- not run: needs two GPUs -->\n```bash\na\n```\n```yaml title="x.yaml"\nk: 1\n```\n\n<!-- exit code 0 or 1: y -->\n```python\nb\n```\n'
    first, second, third = snippets("page", text)
    assert (first.reason, first.codes, first.where) == ("needs two GPUs", (0,), "page:2")
    assert (second.title, second.text, second.reason) == ("x.yaml", "k: 1\n", None)
    assert (third.codes, third.language) == ((0, 1), "python")
    assert commands("a b \\\n  'c d' # e\n\n# f\ng\n") == [["a", "b", "c d"], ["g"]]


def test_options_of_runs_that_are_not_run_are_known(capsys):
    """A command that is not run here must have options that exist."""
    assert command(["run", "--help-all"]) == 0
    known = {w.replace("-", "_") for w in re.findall(r"--[\w-]+", capsys.readouterr().out)}
    blocks = [b for blocks in SNIPPETS.values() for b in blocks if b.reason is not None and b.language == "bash"]
    for block in blocks:
        for words in commands(block.text):
            if words[:2] == ["hf-unlearn", "run"]:
                assert {w.replace("-", "_") for w in words if w.startswith("--")} <= known, block.where


def test_the_page_on_troubleshooting_shows_the_code():
    spec = importlib.util.spec_from_file_location("make_troubleshooting", ROOT / "docs" / "make_troubleshooting.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.page() == make.PAGE.read_text("utf-8"), "run: python docs/make_troubleshooting.py"
    found = make.parted("`--alpha` must lie between 0 and 1, got …. Leave it out.")
    assert found == ("alpha", "`--alpha` must lie between 0 and 1, got …", "Leave it out.")
    assert make.cell("a|b `c_d` <e_f>") == r"a\|b `c_d` \<e\_f\>"


def test_the_reference_names_everything_public():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    named = re.findall(r"^::: (\S+)$", page, re.M)
    assert len(named) == len(set(named))
    public = [n for n in hf_unlearn.__all__ if n != "__version__"]
    assert {n.rpartition(".")[2] for n in named} == {*public, *metrics._NAMES}


def mkdocs():
    """The command of mkdocs of this environment, or of the one that `make docs` made."""
    if importlib.util.find_spec("mkdocs") and importlib.util.find_spec("mkdocstrings"):
        return [sys.executable, "-m", "mkdocs"]
    made = ROOT / ".venv-docs" / "bin" / "mkdocs"
    return [str(made)] if made.is_file() else None


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    command = mkdocs()
    if command is None:
        pytest.skip("mkdocs is missing: `make docs` installs it")
    done = subprocess.run(
        [*command, "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted(tmp_path.glob("*.html"))
    assert {p.stem for p in pages} >= {Path(n).stem for n in PAGES if n != "README.md"}
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\s\">]+)|<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+(https?:[^\s\">]+)"
    )
    assert not {page.name: found for page in pages if (found := loaded.findall(page.read_text("utf-8")))}

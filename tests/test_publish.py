"""A tag publishes what was built and tested, without a stored token, and only if it is the version."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_unlearn

ROOT = Path(__file__).parents[1]
FLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8"))
STEPS = FLOW["jobs"]["build"]["steps"]
CHECK = "The tag is the version in pyproject.toml"


def place(text):
    """The number of the first step whose command or action contains `text`."""
    return next(
        i for i, step in enumerate(STEPS) if text in step.get("name", "") + step.get("run", "") + step.get("uses", "")
    )


def test_only_tags_of_versions_start_it():
    assert FLOW[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true


def test_the_files_are_checked_and_the_wheel_is_tested_before_they_are_handed_on():
    order = [place(text) for text in (CHECK, "make build", "tests/test_wheel.py", "actions/upload-artifact")]
    assert order == sorted(order)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "-m build\n" in makefile
    assert "-m twine check --strict dist/*" in makefile
    assert 'HF_UNLEARN_WHEEL="$(ls dist/*.whl)"' in STEPS[place("tests/test_wheel.py")]["run"]


def test_only_the_job_that_publishes_may_ask_for_an_identity_and_no_token_is_stored():
    publish = FLOW["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert (FLOW["permissions"], "permissions" in FLOW["jobs"]["build"]) == ({"contents": "read"}, False)
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert "secrets." not in (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")


@pytest.mark.parametrize(
    ("tag", "code"),
    [(f"v{hf_unlearn.__version__}", 0), (hf_unlearn.__version__, 1), (f"v{hf_unlearn.__version__}.post1", 1), ("v", 1)],
)
def test_a_tag_that_is_not_the_version_ends_it(tag, code, tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_REF_NAME": tag}
    words = ["bash", "-e", "-c", STEPS[place(CHECK)]["run"]]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert (f"The tag is {tag}," in done.stdout) == bool(code)

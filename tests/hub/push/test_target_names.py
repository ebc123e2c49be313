"""Names of repositories, branches and tags are checked before anything is sent."""

import subprocess

import pytest

from hf_unlearn.cli import main
from hf_unlearn.hub.push.target_names import NO_REF
from tests.hub.push.support import REPO


def test_a_malformed_repository_name_is_refused(hub, run, capsys):
    assert main(["push", str(run), "--repo", "a/b/c"]) == 2
    assert "a/b/c" in capsys.readouterr().err


REFS = [
    "",
    "v1",
    "a b",
    "a..b",
    "-x",
    "x.lock",
    "x.lock/y",
    "a/.b",
    ".a",
    "a.",
    "a/",
    "/a",
    "a//b",
    "a~1",
    "a^",
    "a:b",
    "a?",
]
REFS += ["a*", "a[b", "a\\b", "@", "a@{1}", "a@b", "é", "release/1.0", "a\x7fb", "a\tb", "x.lockx", "-", "a-b_c.d"]


@pytest.mark.parametrize("name", REFS)
def test_names_are_those_that_git_takes(name):
    asked = subprocess.run(["git", "check-ref-format", "--branch", name], check=False, capture_output=True, timeout=30)
    assert (NO_REF.fullmatch(name) is None) == (asked.returncode == 0)


@pytest.mark.parametrize("name", ["HEAD", "refs/heads/main", "a" * 40, "0" * 64])
def test_names_of_commits_and_refs_are_refused_as_branches(name):
    assert NO_REF.fullmatch(name)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tag", "a b"], "`tag='a b'`"),
        (["--tag", "v1", "--tag", "a..b"], "`tag='a..b'`"),
        (["--revision", "refs/heads/main"], "`revision='refs/heads/main'`"),
        (["--revision", "a" * 40], "`revision='aaaa"),
        (["--overwrite-original", "alice/other"], "`--overwrite-original='alice/other'`"),
        (["--repo", "alice/x\x1b]0;y"], "no name on the Hub"),
        (["--repo", "alice/"], "no name on the Hub"),
        (["--repo", "../../etc"], "no name on the Hub"),
        (["--sign-key", "nowhere.pem"], "`--sign-key`"),
        (["--base-model", "../alice/secret"], "`--base-model="),
        (["--base-model", "x/y](javascript:alert(1))<img>"], "`--base-model="),
    ],
)
def test_names_are_checked_before_anything_is_sent(hub, run, capsys, words, message, dry):
    assert main(["push", str(run), "--repo", REPO, *words, *dry]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "\x1b" not in error
    assert hub.requests == []

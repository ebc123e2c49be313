"""The example of the app shows an accepted, a hidden and an unchanged model, each with its verdict."""

import os

import pytest

from hf_unlearn.cli.app import example
from hf_unlearn.cli.app.example import CANDIDATES, folder_of_examples, make_example
from hf_unlearn.evaluation.audit.verdicts import HIDDEN, SAME, UNCHANGED
from hf_unlearn.pipeline.audit_job import audit_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_example(tmp_path_factory.mktemp("home") / "hf_unlearn" / "example")


@pytest.mark.slow
@pytest.mark.xdist_group("app")
@pytest.mark.parametrize(("candidate", "verdict"), zip(CANDIDATES, (SAME, HIDDEN, UNCHANGED), strict=True))
def test_each_candidate_has_its_verdict(made, candidate, verdict):
    options = made.options(candidate)
    options.audit_seed = 3
    assert audit_of(options).verdict == verdict


@pytest.mark.slow
@pytest.mark.xdist_group("app")
def test_an_example_that_is_there_is_not_made_again(made):
    told = []
    assert make_example(made.folder, told.append) == made
    assert not told
    assert [p.name for p in made.folder.parent.iterdir()] == [made.folder.name]


def test_an_example_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "CONFIG", {"model_type": "no such model"})
    with pytest.raises(RuntimeError, match="could not be made"):
        make_example(tmp_path / "example", lambda _: None)
    assert os.listdir(tmp_path) == []


def test_the_example_lies_in_the_home_of_the_hub():
    assert folder_of_examples().parent.name == "hf_unlearn"

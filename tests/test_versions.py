"""Floors in pyproject.toml, the tested versions and the lowest ones agree, so that each of them is what tests ran with."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import hf_unlearn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras):
    texts = [*PROJECT["dependencies"], *(t for e in extras for t in EXTRAS[e])]
    return {r.name.lower(): r for r in map(Requirement, texts) if r.name != PROJECT["name"]}


def pins(file):
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return {n.lower(): Version(v) for n, _, v in (line.partition("==") for line in lines if re.match(r"\w", line))}


def floor(requirement):
    """The one version that a requirement names, or None. A floor is all that it may name."""
    assert all(s.operator == ">=" for s in requirement.specifier), f"{requirement}: floors, no caps"
    return next((Version(s.version) for s in requirement.specifier), None)


def test_every_dependency_has_a_tested_version_at_or_above_its_floor():
    tested = pins("constraints.txt")
    everything = requirements("peft", "plots", "sign", "app", "test", "release", "dev", "docs")
    assert tested.keys() == everything.keys()
    for name, requirement in everything.items():
        assert tested[name] in requirement.specifier, requirement


def test_the_lowest_versions_are_the_floors():
    lowest, needed = pins("constraints-lowest.txt"), requirements("peft", "plots", "sign", "test")
    assert lowest.keys() == needed.keys()
    for name, requirement in needed.items():
        least = floor(requirement)
        if name == "transformers":  # 5.17 asks for torchvision, so the tests run one version above the floor
            assert lowest[name] == Version("5.18.0") > least == Version("5.17")
        else:
            assert lowest[name].release[: len(least.release)] == least.release, requirement


@pytest.mark.parametrize(("name", "least"), [("torch", "2.11"), ("transformers", "5.17"), ("huggingface_hub", "1.33")])
def test_the_floors_admit_what_is_promised(name, least):
    assert Version(least) in requirements()[name].specifier


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert hf_unlearn.__version__ == PROJECT["version"]
    assert f"\nversion: {hf_unlearn.__version__}\n" in citation


def test_the_readme_names_the_floors():
    text = (ROOT / "README.md").read_text("utf-8")
    for name in ("torch", "transformers"):
        assert f"{name} ≥ {floor(requirements()[name])}" in text
    assert f"Python ≥ {PROJECT['requires-python'].removeprefix('>=')}" in text

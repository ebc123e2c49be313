"""The help page of `run`: its titles, and what only the long page shows."""

import re
from dataclasses import fields

import pytest

from hf_unlearn import METHODS, UnlearningArguments
from hf_unlearn.cli import main
from hf_unlearn.cli.option_groups import CHOSEN, OTHERS, TITLES, option_groups
from hf_unlearn.pipeline.run_arguments import RunArguments


def page(capsys, *words):
    """The options of a help page by the title above them, in their order."""
    assert main(["run", *words]) == 0
    parts = re.split(r"^(\S[^\n]*):\n", capsys.readouterr().out, flags=re.MULTILINE)
    pages = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {title: re.findall(r"^  (?:-h, )?--([\w-]+)", text, re.MULTILINE) for title, text in pages.items()}


@pytest.mark.parametrize("method", METHODS)
def test_every_option_has_one_title(method):
    classes = (RunArguments, UnlearningArguments, METHODS[method])
    groups = option_groups(*classes)
    assert set(groups) == {f.name for c in classes for f in fields(c) if f.init}
    assert tuple(dict.fromkeys(groups.values())) == TITLES


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("model", "model and data"),
        ("label_column", "model and data"),
        ("forget_class", "what to forget"),
        ("forget_seed", "what to forget"),
        ("forget_target", "what to forget"),
        ("retrain", "run and report"),
        ("bias_labels", "run and report"),
        ("peft_config", "what may move"),
        ("trust_region", "what may move"),
        ("rewind", "method"),
        ("method", "method"),
        ("hub_model_id", "Hub"),
        ("push_to_hub", "Hub"),
        ("learning_rate", "HF Trainer"),
        ("fsdp_config", "HF Trainer"),
    ],
)
def test_a_title_says_what_an_option_is_about(name, title):
    assert option_groups(RunArguments, UnlearningArguments, METHODS["surrogate_distillation"])[name] == title


def test_the_short_page_leaves_out_what_only_the_trainer_needs(capsys):
    short, whole = page(capsys, "--help"), page(capsys, "--help-all")
    assert list(short) == list(whole) == ["options", *TITLES, "examples"]
    assert short["options"] == ["help", "config", "num-processes", "help-all"]
    groups = option_groups(RunArguments, UnlearningArguments, METHODS["surrogate_distillation"])
    shown = {name for title in TITLES for name in short[title]}
    assert shown == groups.keys() - OTHERS
    assert shown > set(CHOSEN)
    every = [name for title in TITLES for name in whole[title]]
    assert {name for name in every if not name.startswith("no_")} == groups.keys()
    assert len(every) == len(set(every)) > 170


def test_the_short_page_shows_the_settings_of_the_chosen_method(capsys):
    assert "sigma" not in page(capsys, "--method", "fine_tune", "--help")["method"]
    assert "sigma" in page(capsys, "--method", "jit", "--help")["method"]

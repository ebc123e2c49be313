"""Help texts show a default only where there is one, and examples as they were written."""

import argparse

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.parsers import CommandParser, parser_settings


def test_defaults_are_shown_where_an_option_has_one(capsys):
    parser = argparse.ArgumentParser(**parser_settings("walk", "Walk somewhere.", "", "--to work \\", "    --steps 3"))
    parser.add_argument("--to", required=True, help="The place.")
    parser.add_argument("--steps", type=int, default=7, help="The number of steps.")
    parser.add_argument("--tag", action="append", default=[], help="A tag.")
    parser.add_argument("--fast", action="store_true", help="Walk fast.")
    text = parser.format_help()
    assert text.startswith("usage: hf-unlearn walk ")
    assert text.endswith("examples:\n  hf-unlearn walk\n  hf-unlearn walk --to work \\\n      --steps 3\n")
    assert [line.strip() for line in text.splitlines() if "(default" in line] == [
        "--steps STEPS  The number of steps. (default: 7)"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("card out --rep a/b", "`--rep` is no option of `hf-unlearn card`. Did you mean `--repo`?"),
        ("push out --rep a/b", "`--rep` is no option of `hf-unlearn push`. Did you mean `--repo`?"),
        ("push out", "`--repo` is missing. `hf-unlearn push --help` explains the options."),
        ("push --repo a/b", "`run_folder` is missing."),
        (
            "receipt sign --receipt r --kye k",
            "`--kye` is no option of `hf-unlearn receipt sign`. Did you mean `--key`?",
        ),
        ("receipt keygen", "`--output` is missing. `hf-unlearn receipt keygen --help`"),
        ("receipt", "`verify|prove|seal|keygen|sign` is missing."),
        ("receipt verfy", "invalid choice: 'verfy' (choose from "),
        ("demo --forget 3", "`--forget` is no option of `hf-unlearn demo`. Did you mean `--forget-class`?"),
        ("demo --seed x", "argument --seed: invalid int value: 'x'. `hf-unlearn demo --help` explains the options."),
        ("card out --repo=--", "expected one argument"),
        ("card out --repo", "expected one argument, and one that begins with `-` is written as `--option=-value`."),
    ],
)
def test_an_error_names_what_was_typed_and_a_remedy(capsys, words, message):
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_an_option_with_underscores_is_listed_once_with_its_values():
    parser = CommandParser(**parser_settings("walk", "Walk somewhere."))
    parser.add_argument("--far_away", "--far-away", "--remote", nargs="+", help="Places.")
    parser.add_argument("--dry-run", action="store_true", help="Stay.")
    text = parser.format_help()
    assert "  --far_away, --remote FAR_AWAY [FAR_AWAY ...]\n" in text
    assert "  --dry-run " in text

"""Help texts show a default only where there is one, and examples as they were written."""

import argparse

from hf_unlearn.cli.parsers import parser_settings


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

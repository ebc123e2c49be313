"""`hf-unlearn card`: write the card of a run again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..hub.card import write_card
from ..hub.layout import RECEIPT
from ..hub.receipt.signing import signature_file
from .parsers import CommandParser, parser_settings


def _parse(words: Sequence[str]) -> argparse.Namespace:
    about = "Write the model card of a run again, with an audit that was saved into its folder since."
    settings = parser_settings("card", about, "out", "out --repo my-org/classifier")
    parser = CommandParser(**settings)
    parser.add_argument("folder", metavar="RUN_FOLDER", help="Output folder of a run. It must hold report.json.")
    parser.add_argument("--repo", help="Hub id that the card names as the place of the model.")
    parser.add_argument("--overwrite", action="store_true", help="Replace a README.md that somebody wrote or edited.")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn card`. Returns 0."""
    options = _parse(words)
    signature = signature_file(Path(options.folder) / RECEIPT)
    signed = signature.exists()
    path = write_card(options.folder, repo_id=options.repo, overwrite=options.overwrite)
    print(f"Card in {path}")
    if signed and not signature.exists():
        print("The receipt covers the card and was sealed again: sign it once more, with hf-unlearn receipt sign.")
    return 0

"""`hf-unlearn card`: the card of a run, written again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..hub.card import write_card
from ..hub.layout import RECEIPT
from ..hub.receipt.signing import signature_file
from .exit_codes import answered


def main(words: Sequence[str]) -> int:
    """`hf-unlearn card`: 0 when the card is written; other codes as in `exit_codes`."""
    return answered(lambda: _write(_parse(words)))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-unlearn card",
        description="Write the card of a run again, with the audit and the receipt beside it.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="output folder of a run, with its report.json")
    parser.add_argument("--repo", help="where the model is on the Hub, such as my-org/classifier")
    parser.add_argument("--overwrite", action="store_true", help="replace a README.md that somebody wrote or edited")
    return parser.parse_args(words)


def _write(options: argparse.Namespace) -> int:
    signature = signature_file(Path(options.folder) / RECEIPT)
    signed = signature.exists()
    path = write_card(options.folder, repo_id=options.repo, overwrite=options.overwrite)
    print(f"Card in {path}")
    if signed and not signature.exists():
        print("The receipt was sealed again over it: sign it once more, with hf-unlearn receipt sign.")
    return 0

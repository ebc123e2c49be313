"""`hf-unlearn app`: a page on this machine that says whether a model forgot, and checks a receipt."""

import argparse
from collections.abc import Sequence

from ..parsers import CommandParser, parser_settings

HOST = "127.0.0.1"  # no other machine reaches the page
PORT = 7860


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn app` until it is ended. Returns 0."""
    options = _parse(words)
    try:
        from .page import build, for_others, launch
    except ImportError as error:
        raise ValueError(f"`hf-unlearn app` needs gradio: `pip install hf_unlearn[app]` ({error}).") from error
    if options.share:
        print(
            "The page gets a public address: whoever knows it can use this page, and its data pass through a server of gradio."
        )
    launch(for_others() if options.share else build(), host=HOST, port=options.port, share=options.share)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        **parser_settings(
            "app",
            "Open a page in the browser: did a model forget, and does a published model fit its receipt? Models and rows stay on this "
            "machine.",
            "",
            "--port 8000",
        )
    )
    parser.add_argument("--port", type=int, default=PORT, help="Port of the page.")
    parser.add_argument(
        "--share",
        action="store_true",
        help="Give the page a public address for a while. It then reads Hub ids and uploaded files, and no folders of this machine.",
    )
    return parser.parse_args(list(words))

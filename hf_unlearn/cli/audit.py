"""`hf-unlearn audit`: judge a model that any tool made, by the rows that it should have forgotten."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..pipeline.audit_job import AuditArguments, audit_of
from .option_parser import OptionParser
from .parsers import parser_settings


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn audit`. Returns 0 if the model is indistinguishable from retrained ones, else 1."""
    settings = parser_settings(
        "audit",
        "Compare an unlearned model with retrained ones, and say whether it has forgotten, with the evidence.",
        "--original model --unlearned forgotten --retrained seed1 seed2 seed3 \\",
        "    --forget data:train --forget_class 3 --test data:test --output_dir audit",
    )
    (options,) = OptionParser(AuditArguments, **settings).read(words)
    result = audit_of(options, partial(print, flush=True))
    result.print()
    if options.output_dir is not None:
        result.save(options.output_dir)
        print(f"Audit in {Path(options.output_dir) / 'audit.html'}")
    return 0 if result.accepted else 1

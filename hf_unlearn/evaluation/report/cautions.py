"""What a reader of a report must know although the run did what was asked: words left in the tokenizer, seen test rows, no labels."""

from collections.abc import Mapping
from typing import Any

from ...data.overlap import seen_rows
from ...models.processor import Processor
from ...models.vocabulary import forgotten_words
from ...training.protocols import FinishedRun
from .measures import Outputs

NEEDED_FOR = {
    "forget": "accuracy on the forget set and the loss attack",
    "retain": "accuracy on the retain set",
    "test": "test accuracy, accuracy by class and the loss attack",
}


def cautions(run: FinishedRun, retain: Any | None, test: Any | None, outputs: Outputs) -> list[str]:
    """Return sentences about a finished run. `outputs` are those of the original on each set that was measured."""
    found = [
        f"the {name} set has rows without labels, so {NEEDED_FOR[name]} are left out"
        for name, (_, labels) in outputs.items()
        if labels is None
    ]
    found.append(seen_in_training(run.processor, test, {"to forget": run.forget_dataset, "kept": retain}))
    if run.args.check_rows:
        words = forgotten_words(run.processor, run.forget_dataset, retain)
        found.append("" if words is None else words.warning)
    return [caution for caution in found if caution]


def seen_in_training(processor: Processor, test: Any | None, trained: Mapping[str, Any | None]) -> str:
    """Say how many test rows have a copy among the rows of `trained` (sets by what they hold); "" if none has."""
    columns = processor.inputs_among(getattr(test, "column_names", None) or ())
    counts = {name: seen_rows(test, rows, columns) for name, rows in trained.items() if rows is not None and columns}
    parts = [f"{'' if exact else 'about '}{count:,} {name}" for name, (count, exact) in counts.items() if count]
    if not parts or test is None:
        return ""
    share = min(1.0, sum(count for count, _ in counts.values()) / len(test))
    return (
        f"{share:.1%} of the {len(test):,} test rows have an identical copy among the training rows ({' and '.join(parts)}). They are "
        "no unseen rows, so test accuracy is too high and the attacks find too little"
    )

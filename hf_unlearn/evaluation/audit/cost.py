"""How long an audit takes: estimated from a few rows before any model is measured, and kept within a budget by reading fewer rows."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ...data.pairs import PreparedRows
from ...models.prediction import answers
from ...models.processor import Processor
from ..relearning import RELEARNING_ROWS
from .model_outputs import STEADY_ROWS
from .relearning_curves import DRAWS, PROBE_ROWS, STEPS

TIMED_ROWS = 48
USUAL_STEPS = 15  # until a class is relearned
LEARNED = 3  # a row that is learned from costs as much as three that are only read
FEWEST_ROWS = 100  # of each set, below which hardly any line can tell anything
GROWTH = 1.25
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """Return the seconds that `90`, `90s`, `10m` or `1.5h` name.

    Raises:
        ValueError: it names no length of time above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    seconds = float(found[1]) * UNITS[found[2] or "s"] if found else 0.0
    if not seconds:
        raise ValueError(f"`budget={text!r}` is no length of time. Write '90s', '10m' or '1.5h'.")
    return seconds


def in_words(seconds: float) -> str:
    """Return a length of time as `45 s`, `3 min` or `1.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class AuditCost:
    """What an audit of `models` models costs, the original among them.

    Attributes:
        seconds_a_row: of one forward pass of the original, without a gradient.
        models: number of models that are measured.
    """

    seconds_a_row: float
    models: int

    @classmethod
    def measured(cls, model: nn.Module, rows: PreparedRows, processor: Processor, models: int) -> "AuditCost":
        """Time `model`, the original, on a few of `rows`."""
        few = rows.many(range(min(TIMED_ROWS, len(rows))))
        took = []
        for _ in range(2):  # the first pass also prepares the rows
            start = time.perf_counter()
            for _ in answers(model, few, processor.collate, len(few), features=True):
                pass
            took.append(time.perf_counter() - start)
        return cls(took[-1] / len(few), models)

    def seconds(self, rows: Mapping[str, int]) -> float:
        """Return about how long an audit takes that reads `rows` (set -> number of rows). What is in a cache takes less."""
        read = sum(rows.values()) + 2 * rows["forget"] + 2 * min(STEADY_ROWS, rows["forget"], rows["test"])
        probe = min(PROBE_ROWS, rows["test"])
        step = LEARNED * min(RELEARNING_ROWS, rows["forget"]) + probe
        # A copy of the original that only hides the classes is taught too, and takes longest.
        hidden = DRAWS * (LEARNED * RELEARNING_ROWS * STEPS + probe * STEPS / 3)
        return self.seconds_a_row * (self.models * (read + DRAWS * USUAL_STEPS * step) + hidden)

    def sentence(self, rows: Mapping[str, int]) -> str:
        """Return `seconds` in words."""
        read = ", ".join(f"{count:,} {name}" for name, count in rows.items())
        many = "1 model" if self.models == 1 else f"{self.models} models"
        return f"An audit of {many} on {read} rows takes about {in_words(self.seconds(rows))} at most, less what is cached."

    def rows_within(self, budget: float, sizes: Mapping[str, int]) -> int:
        """Return the most rows of each set, of which there are `sizes`, with which an audit takes at most `budget` seconds.

        Each number that can be returned is a quarter larger than the one before: two audits so read the same rows, and share what
        is in a cache, although one was timed a little slower.

        Raises:
            ValueError: even `FEWEST_ROWS` of each set take longer.
        """

        def cut(most: int) -> dict[str, int]:
            return {name: min(size, most) for name, size in sizes.items()}

        if (least := self.seconds(cut(FEWEST_ROWS))) > budget:
            raise ValueError(
                f"`budget`: an audit of {self.models} models takes about {in_words(least)} here even if it reads {FEWEST_ROWS} rows of "
                "each set, and with fewer it can tell nothing. Give it that long."
            )
        rows = float(FEWEST_ROWS)
        while rows < max(sizes.values()) and self.seconds(cut(int(rows * GROWTH))) <= budget:
            rows *= GROWTH
        return int(rows)

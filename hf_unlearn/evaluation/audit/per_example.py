"""Per-example evidence: which single forget rows an attacker would take for rows that the model was trained on.

The retrained models are the attacker's shadow models that never saw a row. The other half of the attacks' usual shadows, models
that were trained on the row and then unlearned, an audit does not have, so these are the attacks' offline forms.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from ...metrics.functional.per_example_attacks import FEW_MODELS, lira, rmia
from .evidence import separation
from .model_outputs import Measured

FEWEST = 2  # retrained models: one has no variance
FALSE_ALARMS = 0.01  # share of unseen rows that an attack takes for training rows


@dataclass(frozen=True)
class PerExample:
    """Scores of every forget row, high for a row that the model seems to be trained on.

    Attributes:
        rows: numbers of the rows in the forget set as it was given.
        lira: standard deviations by which the log-odds of the label lie above those of retrained models (arXiv 2112.03570).
        rmia: share of unseen rows over which the row's relative likelihood lies, in [0, 1] (arXiv 2312.03312).
        found: attack -> share of forget rows above the score that 1 % of unseen rows exceed: 0.01 by chance.
        apart: attack -> share below the score that 99 % exceed, so that a row stands out as forgotten: 0.01 by chance.
        auc: attack -> chance that a forget row scores above an unseen one: 0.5 by chance.
        models: number of retrained models.
    """

    rows: list[int]
    lira: list[float]
    rmia: list[float]
    found: dict[str, float]
    apart: dict[str, float]
    auc: dict[str, float]
    models: int

    def to_csv(self) -> str:
        """Return one line for each row: its number and both scores."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(f.name for f in fields(self)[:3])
        table.writerows(
            (row, f"{a:.4f}", f"{b:.4f}") for row, a, b in zip(self.rows, self.lira, self.rmia, strict=True)
        )
        return out.getvalue()

    def sentences(self) -> list[str]:
        """Return what the scores say, and what they cannot."""
        said = [
            f"Row by row, {name} finds {self.found[key]:.1%} of the forget rows at {FALSE_ALARMS:.0%} false alarms, and "
            f"{self.apart[key]:.1%} stand out as answered worse than unseen rows (AUC {self.auc[key]:.2f})."
            for key, name in (("lira", "LiRA"), ("rmia", "RMIA"))
        ]
        if self.models < FEW_MODELS:
            said.append(
                f"With {self.models} retrained models all rows share one variance. A variance for each row takes {FEW_MODELS}, "
                "which makes the attack stronger."
            )
        return said


def too_few(retrained: int) -> str:
    """Say that so many retrained models are too few for attacks on single rows, and how many it takes."""
    return (
        f"`per_example` needs at least {FEWEST} retrained models, and {retrained} can be used. With fewer it is not known how much a "
        f"row's score differs between trainings; {FEW_MODELS} give each row a variance of its own."
    )


def attack_rows(
    rows: Sequence[int], unlearned: Measured, retrained: Sequence[Measured], in_forgotten_class: Tensor
) -> PerExample:
    """Attack every forget row, with retrained models as shadows, and every unseen row for comparison.

    Args:
        rows: numbers of the forget rows, (n,).
        unlearned: the judged model.
        retrained: models trained without the forget set.
        in_forgotten_class: (test rows,) boolean, true for test rows of forgotten classes. These are the unseen rows, if there are
            any, and otherwise all test rows are.

    Raises:
        ValueError: there are fewer than two retrained models.
    """
    if len(retrained) < FEWEST:
        raise ValueError(too_few(len(retrained)))
    alike = in_forgotten_class if in_forgotten_class.any() else ~in_forgotten_class
    forget, unseen = ([m.outputs[name].margin.numpy() for m in (unlearned, *retrained)] for name in ("forget", "test"))
    unseen = [scores[alike.numpy()] for scores in unseen]
    shadows, others = np.stack(forget[1:]), np.stack(unseen[1:])
    by_lira = [lira(own, known, online=False) for own, known in ((forget[0], shadows), (unseen[0], others))]
    by_rmia = [
        rmia(own, known, None, unseen[0], others, online=False)
        for own, known in ((forget[0], shadows), (unseen[0], others))
    ]
    found, apart, auc = {}, {}, {}
    for key, (ours, theirs) in (("lira", by_lira), ("rmia", by_rmia)):
        low, high = np.quantile(theirs, [FALSE_ALARMS, 1 - FALSE_ALARMS])
        found[key], apart[key] = float((ours > high).mean()), float((ours < low).mean())
        auc[key] = separation(np.asarray(ours), np.asarray(theirs)).value
    return PerExample(
        [int(r) for r in rows], by_lira[0].tolist(), by_rmia[0].tolist(), found, apart, auc, len(retrained)
    )

"""What a comparison measures of each model, beside the audit."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ...metrics.functional.distance import jensen_shannon
from ...metrics.functional.membership import entropy_attack, mia_efficacy, threshold_attack
from ..audit.model_outputs import Measured, Outputs
from ..audit.per_example import FEWEST, attack_rows

MOST_ATTACKED = 2_000  # rows of each set that the support vector machine sees: its time grows with their square


def figures(model: Measured, in_forgotten_class: Tensor, shadows: Sequence[Measured] = ()) -> dict[str, float]:
    """Return measures of one model, all in [0, 1].

    Accuracies on the `forget`, `retain` and `test` set, of which `test` has the classes that are kept and `forgotten` the others;
    `membership`, the share of forget rows that a support vector machine takes for rows that were not trained on (SalUn's MIA);
    `entropy`, the share that the attack by entropy of JiT's paper takes for training rows; `auc`, of an attack by the loss that
    tells forget rows from test rows; and, with two shadows or more, `lira`, the AUC of the attack on single rows that knows models
    which never saw them (offline LiRA, arXiv 2112.03570; as U-LiRA, arXiv 2403.01218, it attacks an unlearned model).

    Args:
        model: the measured model, with a retain set.
        in_forgotten_class: (test rows,) boolean, true for test rows of the forgotten classes.
        shadows: retrained models, without `model` itself. Default: none.
    """
    rows = model.outputs
    kept = ~in_forgotten_class
    right = {"forget": rows["forget"].right, "retain": rows["retain"].right, "test": rows["test"].right[kept]}
    if in_forgotten_class.any():
        right["forgotten"] = rows["test"].right[in_forgotten_class]
    out = {name: float(found.double().mean()) for name, found in right.items()}
    retain, test, forget = (_first(rows[name]) for name in ("retain", "test", "forget"))
    if in_forgotten_class.any():
        test = _first(rows["test"], kept)
    out["membership"] = mia_efficacy(retain, test, forget)
    out["entropy"] = entropy_attack(retain[0], test[0], forget[0])
    out["auc"] = float(threshold_attack(retain, test, forget)["auc"])
    if len(shadows) >= FEWEST:
        out["lira"] = attack_rows([], model, shadows, in_forgotten_class).auc["lira"]
    return out


def _first(outputs: Outputs, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits and labels of the first `MOST_ATTACKED` rows, or of those that are chosen."""
    logits, labels = outputs.logits, outputs.labels
    if chosen is not None:
        logits, labels = logits[chosen], labels[chosen]
    return logits[:MOST_ATTACKED], labels[:MOST_ATTACKED]


def divergences(original: Measured, unlearned: Measured, retrained: Sequence[Measured]) -> dict[str, list[float]]:
    """Return the Jensen–Shannon divergences on forget rows, in nats: from each retrained model, and among the retrained ones."""

    def apart(pairs: Any) -> list[float]:
        return [jensen_shannon(a.outputs["forget"].logits, b.outputs["forget"].logits) for a, b in pairs]

    return {
        "original": apart((original, r) for r in retrained),
        "unlearned": apart((unlearned, r) for r in retrained),
        "among": apart(combinations(retrained, 2)),
    }


def answers_alike(a: Measured, b: Measured) -> bool:
    """Return True if two models answer every row alike, up to rounding."""
    return all(torch.allclose(a.outputs[k].logits, rows.logits, rtol=0, atol=1e-5) for k, rows in b.outputs.items())

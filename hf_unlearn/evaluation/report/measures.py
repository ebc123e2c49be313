"""The figures of a report, from what one model answered on each set: every one with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...metrics.functional import intervals
from ...metrics.functional.distance import divergences
from ...metrics.functional.intervals import Interval
from ...metrics.functional.membership import entropy_attack_calls, loss
from ...metrics.functional.roc import Roc, roc

BINS = 20
Outputs = Mapping[str, tuple[Tensor, Tensor | None]]  # set -> logits (n, classes), labels (n,)


def measure(outputs: Outputs, classes: tuple[int, ...]) -> tuple[dict[str, Interval], Roc | None]:
    """Accuracies, F1 and attacks of one model, and the ROC of its loss attack where the sets allow one.

    Args:
        classes: the forgotten ones; the parts of the test set are told apart by them.
    """
    out: dict[str, Interval] = {}
    for name, (logits, labels) in outputs.items():
        if labels is None:
            continue
        right = logits.argmax(-1) == labels
        out[f"{name}_accuracy"] = intervals.share(right)
        out[f"{name}_f1"] = intervals.macro_f1(logits.argmax(-1), labels)
        if name == "test" and classes:
            gone = torch.isin(labels, torch.tensor(classes))
            parts = {"test_forgotten_accuracy": right[gone], "test_kept_accuracy": right[~gone]}
            out |= {k: intervals.share(part) for k, part in parts.items() if len(part)}
    if {"forget", "retain", "test"} <= outputs.keys():
        out["membership_attack"] = intervals.share(
            entropy_attack_calls(*(outputs[name][0] for name in ("retain", "test", "forget")))
        )
    curve = loss_attack(outputs)
    if curve is not None:
        out["loss_attack_auc"] = Interval(curve.auc, curve.auc_low, curve.auc_high)
        out |= {f"loss_attack_tpr_{rate:g}": Interval(*found) for rate, found in curve.tpr.items()}
    return out, curve


def loss_attack(outputs: Outputs) -> Roc | None:
    """How well a low loss tells forget rows from test rows; None where a side has fewer than two labelled rows.

    Only test rows of labels that the forget set holds are compared, where there are any: a whole forgotten class would
    otherwise be told from the others by what it is, not by who was trained on.
    """
    if not all(outputs.get(name, (None, None))[1] is not None for name in ("forget", "test")):
        return None
    asked, asked_labels = outputs["forget"][0], np.asarray(outputs["forget"][1])
    others, labels = outputs["test"][0], np.asarray(outputs["test"][1])
    alike = np.isin(labels, asked_labels)
    if alike.sum() >= 2:
        others, labels = others[torch.as_tensor(alike)], labels[alike]
    if min(len(asked_labels), len(labels)) < 2:
        return None
    return roc(-loss(asked, asked_labels), -loss(others, labels))


def distances(logits: Tensor, yardstick: Tensor) -> dict[str, Interval]:
    """How far outputs (n, classes) are from the retrained model's on the same rows."""
    return {
        "js_to_retrained": intervals.mean(divergences(logits, yardstick).numpy()),
        "agreement_with_retrained": intervals.share(logits.argmax(-1) == yardstick.argmax(-1)),
    }


def per_class(logits: Tensor, labels: Tensor) -> tuple[list[float | None], list[list[float] | None]]:
    """Accuracy of every class, and its limits; None for a class without rows."""
    right, classes = (logits.argmax(-1) == labels).numpy(), logits.shape[-1]
    sizes = np.bincount(labels.numpy(), minlength=classes)
    hits = np.bincount(labels.numpy(), weights=right, minlength=classes)
    low, high = intervals.share_limits(hits, sizes.clip(1))
    return (
        [float(h / n) if n else None for h, n in zip(hits, sizes, strict=True)],
        [[float(a), float(b)] if n else None for a, b, n in zip(low, high, sizes, strict=True)],
    )


def histogram(logits: Tensor) -> list[float]:
    """Shares of rows by highest probability, `BINS` equal bins over [0, 1]."""
    counts = np.histogram(logits.softmax(-1).amax(-1).numpy(), bins=BINS, range=(0.0, 1.0))[0]
    return (counts / counts.sum()).tolist()


def curve_of(found: Roc) -> dict[str, Any]:
    """JSON-ready: the curve, and how many rows it is of."""
    rates, shares = found.curve
    return {"false_positives": rates, "true_positives": shares, "members": found.members, "others": found.others}

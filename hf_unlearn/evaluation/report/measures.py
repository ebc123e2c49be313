"""The figures of a report, each with its interval, from the logits of one model on each set."""

from collections.abc import Mapping, Sequence

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
    """Return accuracies, F1 and attacks of one model, and the ROC of its loss attack, or None if the sets allow none.

    Args:
        classes: ids of the forgotten classes. The test set is also measured in two parts: these classes, and the others.
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
    """Return how well a low loss tells forget rows from test rows; None if a side has fewer than two labeled rows.

    If at least two test rows have labels that are in the forget set, only these are compared. Otherwise an attack would find
    a forgotten class by its label, and not by which rows were trained on.
    """
    if not all(outputs.get(name, (None, None))[1] is not None for name in ("forget", "test")):
        return None
    forget, forget_labels = outputs["forget"][0], np.asarray(outputs["forget"][1])
    test, labels = outputs["test"][0], np.asarray(outputs["test"][1])
    same_labels = np.isin(labels, forget_labels)
    if same_labels.sum() >= 2:
        test, labels = test[torch.as_tensor(same_labels)], labels[same_labels]
    if min(len(forget_labels), len(labels)) < 2:
        return None
    return roc(-loss(forget, forget_labels), -loss(test, labels))


def distances(logits: Tensor, yardsticks: Sequence[Tensor]) -> dict[str, Interval]:
    """Return how far outputs (n, classes) are, on average, from those of each retrained model on the same rows."""
    of_rows = np.mean([divergences(logits, yardstick).numpy() for yardstick in yardsticks], axis=0)
    same = [intervals.share(logits.argmax(-1) == yardstick.argmax(-1)) for yardstick in yardsticks]
    return {"js_to_retrained": intervals.mean(of_rows), "agreement_with_retrained": intervals.mean_of(same)}


def per_class(logits: Tensor, labels: Tensor) -> tuple[list[float | None], list[list[float] | None]]:
    """Return the accuracy of every class in [0, 1], and its limits; None for a class without rows."""
    right, classes = (logits.argmax(-1) == labels).numpy(), logits.shape[-1]
    sizes = np.bincount(labels.numpy(), minlength=classes)
    hits = np.bincount(labels.numpy(), weights=right, minlength=classes)
    low, high = intervals.share_limits(hits, sizes.clip(1))
    return (
        [float(h / n) if n else None for h, n in zip(hits, sizes, strict=True)],
        [[float(a), float(b)] if n else None for a, b, n in zip(low, high, sizes, strict=True)],
    )


def histogram(logits: Tensor) -> list[float]:
    """Return the shares of rows with their highest probability in each of `BINS` equal bins over [0, 1]."""
    counts = np.histogram(logits.softmax(-1).amax(-1).numpy(), bins=BINS, range=(0.0, 1.0))[0]
    return (counts / counts.sum()).tolist()

"""Checks of sets, labels and models before an audit runs any model."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import chi2_contingency
from torch import Tensor, nn

from ...data.pairs import PreparedRows
from ...data.sampling import draw
from ...models.forward import is_text_model, unwrap
from ...models.processor import Processor
from ...training.checks import check_rows

logger = logging.getLogger(__name__)


def check_models(original: nn.Module, others: Mapping[str, nn.Module]) -> None:
    """Check that every model in `others` can be compared with the original.

    Raises:
        ValueError: a model has another head, numbers its classes differently, or reads other inputs than the original.
    """
    ours: Any = unwrap(original).config
    for name, model in others.items():
        theirs: Any = unwrap(model).config
        if theirs.num_labels != ours.num_labels:
            raise ValueError(
                f"`{name}` has a head of {theirs.num_labels} classes and `original` one of {ours.num_labels}: their outputs "
                "cannot be compared. Keep the size of the head when a class is forgotten, and retrain with the same size."
            )
        names, known = (
            {str(k): int(v) for k, v in (c.label2id or {n: i for i, n in c.id2label.items()}).items()}
            for c in (theirs, ours)
        )
        if names != known and names.keys() == known.keys():
            raise ValueError(f"`{name}` numbers its classes differently from `original`. Align their `label2id`.")
        if is_text_model(model) != is_text_model(original):
            raise ValueError(f"Of `{name}` and `original` one reads images and the other texts.")
        words = [getattr(c, "vocab_size", None) for c in (theirs, ours)]
        if words[0] != words[1]:
            raise ValueError(
                f"`{name}` has a vocabulary of {words[0]} and `original` of {words[1]}. Retrain with the original's tokenizer."
            )


def check_sets(given: Mapping[str, Any], processor: Processor) -> dict[str, Any]:
    """Return the sets with labels as the model numbers them.

    Raises:
        ValueError: a set is empty, lacks labels, or has a label outside the head.
    """
    sets = {}
    for name, data in given.items():
        sets[name] = processor.align(data, name)
        check_rows(processor, sets[name], name, needed=True)
    return sets


def draw_sets(
    given: Mapping[str, Any], processor: Processor, max_rows: int, seed: int
) -> tuple[dict[str, PreparedRows], dict[str, Tensor], dict[str, str]]:
    """Return at most `max_rows` prepared rows of each set, their labels (n,), and a digest of each set in any order.

    Raises:
        ValueError: a row has no label, or a set shares half of its rows with another.
    """
    sets: dict[str, PreparedRows] = {}
    labels: dict[str, Tensor] = {}
    digests: dict[str, set[bytes]] = {}
    for name, data in given.items():
        rows = PreparedRows(draw(data, max_rows, seed), processor, name, cache_bytes=2**30)
        found = [row.get("labels") for row in rows]
        missing = sum(y is None for y in found)
        if missing:
            raise ValueError(
                f"`{name}`: {missing} of {len(found)} rows have no label. Add labels, or name their column: `label_column`."
            )
        sets[name], labels[name] = rows, torch.stack([torch.as_tensor(y) for y in found]).long()
        digests[name] = {_digest(row) for row in rows}
    for a, b in (("forget", "test"), ("forget", "retain"), ("retain", "test")):
        common = len(digests.get(a, set()) & digests.get(b, set()))
        if common and common >= 0.5 * min(len(digests[a]), len(digests[b])):
            raise ValueError(
                f"`{a}` and `{b}` overlap: {common} rows are in both. Forget and retain set are training rows without a row in "
                "common, and no model was trained on a row of the test set."
            )
        if common:  # real data sets contain some duplicates
            logger.warning("%d rows of `%s` are in `%s` as well.", common, a, b)
    joint = {
        name: hashlib.blake2b(b"".join(sorted(found)), digest_size=16).hexdigest() for name, found in digests.items()
    }
    return sets, labels, joint


def _digest(row: Mapping[str, Any]) -> bytes:
    inputs = (torch.as_tensor(row[k]).contiguous().numpy() for k in sorted(row) if k != "labels")
    return hashlib.blake2b(b"".join(x.tobytes() for x in inputs), digest_size=16).digest()


def find_classes(kind: str, labels: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the classes that were forgotten as a whole; empty if single rows were forgotten.

    Raises:
        ValueError: `kind` is unknown, or it is `class` and the retain set has rows of these classes.
    """
    if kind not in ("auto", "class", "samples"):
        raise ValueError(f"`kind={kind!r}` is unknown. Known: auto, class, samples.")
    classes = tuple(sorted(set(labels["forget"].tolist())))
    kept = set(labels["retain"].tolist()) if "retain" in labels else None
    if kind == "class" and kept is not None and kept & set(classes):
        raise ValueError("`kind='class'`: the retain set has rows of the classes. Remove them or set `kind='samples'`.")
    whole = not kept & set(classes) if kept is not None else len(classes) == 1
    return classes if kind == "class" or (kind == "auto" and whole) else ()


def same_shares(a: Tensor, b: Tensor, level: float = 0.01) -> bool:
    """Return True if a χ² test at `level` does not reject that two sets of labels (n,) have the same shares of classes."""
    classes = int(max(a.max(), b.max())) + 1
    counts = torch.stack([a.bincount(minlength=classes), b.bincount(minlength=classes)])
    counts = counts[:, counts.sum(0) > 0]
    return counts.shape[1] < 2 or bool(chi2_contingency(counts.numpy()).pvalue >= level)

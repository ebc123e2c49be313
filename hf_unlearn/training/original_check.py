"""The check of an original before it unlearns: does it know what the labels say? If not, labels or inputs do not fit it."""

import logging
from collections.abc import Collection

import torch
from torch import Tensor

from ..models.processor import Processor
from .protocols import TrainingRun

logger = logging.getLogger(__name__)

ORIGINAL = "the original "  # how every doubt begins
FEW = 8  # rows of which no share is judged
NEARLY_ALL = 0.8  # share of a class that goes into one other class if its number means another class


def find_doubts(run: TrainingRun, kept: tuple[Tensor, Tensor] | None) -> list[str]:
    """Log and return sentences about labels that the original does not confirm, none if all is well.

    Without class names in data and model nothing else shows that a label's number means another class to the model, or that the
    image processor or tokenizer is another one than in training.

    Args:
        kept: the original's predictions (n,) and the labels (n,) of rows to keep; None without labelled ones.
    """
    doubts: list[str] = []
    if run.method.starts_fresh:
        return doubts  # nothing is learned yet
    reference, processor = run.reference, run.processor
    if reference.labels is not None and reference.forgotten_classes:
        doubts += _of_classes(reference.predictions, reference.labels, processor, "rows to forget", known=_known(kept))
    if kept is not None:
        doubts += doubts_of_rows(*kept, processor, "rows to keep")
    for doubt in doubts:
        logger.warning(doubt)
    return doubts


def doubts_of_rows(predicted: Tensor, labels: Tensor, processor: Processor, rows: str) -> list[str]:
    """Return sentences about what the original's predictions (n,) say against the labels (n,) of `rows` of several classes."""
    recalls = torch.stack([(predicted[labels == c] == c).float().mean() for c in labels.unique()])
    chance = 1 / max(len(recalls), 2)
    noise = 2 * (chance * (1 - chance) / len(labels)) ** 0.5 if len(labels) >= 50 else 0.0
    swapped = _of_classes(predicted, labels, processor, rows, FEW, _known((predicted, labels)))
    one_answer = (predicted == predicted.mode().values).float().mean().item() >= NEARLY_ALL
    if swapped and not one_answer:
        return swapped
    if len(labels) < FEW or recalls.mean().item() > chance + noise:
        return []
    return [
        f"{ORIGINAL}gets {recalls.mean():.0%} of the {rows} right, averaged over their classes, no better than guessing: it is "
        "untrained, or labels, image processor or tokenizer are not those of its training"
    ]


def _known(rows: tuple[Tensor, Tensor] | None) -> set[int]:
    """Return the classes that the original answers for most rows with that label, by predictions (n,) and labels (n,)."""
    if rows is None:
        return set()
    predicted, labels = rows
    return {c for c in labels.unique().tolist() if (predicted[labels == c] == c).float().mean() > 0.5}


def _of_classes(
    predicted: Tensor,
    labels: Tensor,
    processor: Processor,
    rows: str,
    few: int | None = None,
    known: Collection[int] = (),
) -> list[str]:
    """Return a sentence for each class that the original takes for another.

    With `few`, only classes of that many rows or more count, and only if nearly all of their rows go into one other class.
    A class that goes into one of the `known` classes, whose own rows confirm their number, is a rare or a hard one and no other
    number: nothing is said of it.
    """
    found = []
    names = {number: name for name, number in processor.label2id.items()}
    for label in labels.unique().tolist():
        answers = predicted[labels == label]
        answer = int(answers.mode().values)
        right, share = (answers == label).float().mean().item(), (answers == answer).float().mean().item()
        judged = few is None or (len(answers) >= few and share >= NEARLY_ALL)
        if judged and answer not in known and right <= 1 / max(processor.config.num_labels, 2):
            found.append(
                f"{ORIGINAL}takes {share:.0%} of the {rows} with label {label} ({names.get(label, label)}) for class {answer} "
                f"({names.get(answer, answer)}): does the number mean the same class to data and model? Give both the same class "
                "names (`ClassLabel` names and the model's `id2label`), and check image processor or tokenizer"
            )
    return found

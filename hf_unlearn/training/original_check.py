"""The check of an original before it unlearns: does it know what the labels say? If not, labels or inputs do not fit it."""

import logging

import torch
from torch import Tensor

from .protocols import TrainingRun

logger = logging.getLogger(__name__)

FEW = 8  # rows of which no share is judged
NEARLY_ALL = 0.8  # share of a class that goes into one other class if its number means another class


def find_doubts(run: TrainingRun, kept: tuple[Tensor, Tensor] | None) -> list[str]:
    """Log and return sentences about labels that the original does not confirm, none if all is well.

    Args:
        kept: the original's predictions (n,) and the labels (n,) of rows to keep; None without labelled ones.

    Without class names in data and model nothing else shows that a label's number means another class to the model, or that the
    image processor or tokenizer is another one than in training.
    """
    names = {number: name for name, number in run.processor.label2id.items()}
    doubts: list[str] = []
    if run.method.starts_fresh:
        return doubts  # nothing is learned yet
    reference = run.reference
    classes = max(run.processor.config.num_labels, 2)
    if reference.labels is not None and reference.forgotten_classes:
        doubts += _of_classes(reference.predictions, reference.labels, names, classes, "rows to forget", few=1)
    if kept is not None:
        predicted, labels = kept
        present = labels.unique()
        recalls = torch.stack([(predicted[labels == c] == c).float().mean() for c in present])
        chance = 1 / max(len(present), 2)
        noise = 2 * (chance * (1 - chance) / len(labels)) ** 0.5 if len(labels) >= 50 else 0.0
        swapped = _of_classes(predicted, labels, names, classes, "rows to keep", few=FEW)
        one_answer = (predicted == predicted.mode().values).float().mean().item() >= NEARLY_ALL
        if swapped and not one_answer:
            doubts += swapped
        elif len(labels) >= FEW and recalls.mean().item() <= chance + noise:
            doubts.append(
                f"the original gets {recalls.mean():.0%} of the rows to keep right, averaged over their classes, no better than "
                "guessing: it is untrained, or labels, image processor or tokenizer are not those of its training"
            )
    for doubt in doubts:
        logger.warning(doubt)
    return doubts


def _of_classes(
    predicted: Tensor, labels: Tensor, names: dict[int, str], classes: int, rows: str, few: int
) -> list[str]:
    """Return a sentence for each class that the original takes for another."""
    found = []
    for label in labels.unique().tolist():
        answers = predicted[labels == label]
        answer = int(answers.mode().values)
        right, share = (answers == label).float().mean().item(), (answers == answer).float().mean().item()
        if len(answers) >= few and right <= 1 / classes and (share >= NEARLY_ALL or rows == "rows to forget"):
            found.append(
                f"the original takes {share:.0%} of the {rows} with label {label} ({names.get(label, label)}) for class {answer} "
                f"({names.get(answer, answer)}): does the number mean the same class to data and model? Give both the same class "
                "names (`ClassLabel` names and the model's `id2label`), and check image processor or tokenizer"
            )
    return found

"""One pass of a model over rows, in evaluation mode and without gradients."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..utils.large_tensors import Collector, joined
from .forward import classify, eval_mode, model_inputs, on_device, unwrap
from .processor import Processor
from .structure import find_blocks, last_layer_inputs

Batch = tuple[Tensor, list[Any]]  # the numbers of rows, and the rows

PATIENCE = 5.0  # seconds before a progress bar appears
WINDOW = 2_048  # texts that are put in order of length together
CPU_ROWS = 32  # of a batch on a CPU, for which larger ones take more time for each row


@dataclass
class Answers:
    """The outputs of a model on a batch of rows."""

    rows: list[Any]  # as they were given
    inputs: dict[str, Any]  # what the model read, on its device
    logits: Tensor  # (B, classes), on the model's device
    labels: Tensor | None  # (B,), on the CPU; None where a row has none
    features: Tensor | None  # (B, d), what the last layer read for these logits; None unless asked for
    places: Tensor  # (B,), the numbers of these rows among all rows


def answers(
    model: nn.Module,
    rows: Iterable[Any],
    collate: Callable[[list[Any]], Mapping[str, Any]],
    batch_size: int = 128,
    features: bool = False,
    any_order: bool = False,
    total: int | None = None,
) -> Iterator[Answers]:
    """Yield the `Answers` to batches of `rows` (a list, a data set or a stream), in order.

    Between batches the model is in its former mode. `features` also asks for what the last layer reads. In `any_order`, prepared
    texts of like length share a batch, so that little padding is read; `places` says which rows they are. On a CPU the batches have at
    most `CPU_ROWS` rows. A terminal shows the progress of a pass that takes longer than `PATIENCE`, of `total`
    rows if `rows` do not know their number.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    batches = _batches(rows, min(batch_size, CPU_ROWS) if on_cpu else batch_size, any_order)
    total = len(rows) if isinstance(rows, Sized) else total
    for places, part in _with_progress(batches, total):
        batch = on_device(model, collate(part))
        inputs, read = model_inputs(batch), None
        with torch.no_grad(), eval_mode(model):
            if features:
                with last_layer_inputs(model) as seen:
                    logits = _classified(model, inputs)
                read = _features_of(logits, *seen[-1])
            else:
                logits = _classified(model, inputs)
        yield Answers(part, inputs, logits, batch["labels"].cpu() if "labels" in batch else None, read, places)


def _with_progress(batches: Iterator[Batch], total: int | None) -> Iterator[Batch]:
    """Yield the batches, and show how many of `total` rows were read."""
    with tqdm(total=total, desc="Reading rows", unit=" rows", delay=PATIENCE, leave=False, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[1]))


def _batches(rows: Iterable[Any], size: int, any_order: bool) -> Iterator[Batch]:
    """Yield batches of rows, and the numbers of the rows."""
    iterator, first = iter(rows), 0
    while window := list(islice(iterator, size)):
        order = list(range(len(window)))
        if any_order and _length(window[0]):
            window += islice(iterator, max(WINDOW // size - 1, 0) * size)
            order = sorted(range(len(window)), key=lambda i: -_length(window[i]))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield first + torch.tensor(chosen), [window[i] for i in chosen]
        first += len(window)


def _length(row: Any) -> int:
    """Return the number of tokens of a prepared text; 0 for other rows."""
    tokens = row.get("input_ids") if isinstance(row, Mapping) else None
    return len(tokens) if isinstance(tokens, Tensor) else 0


def all_labels(parts: Sequence[Tensor | None], places: Sequence[Tensor]) -> Tensor | None:
    """Return the labels (n,) of all rows in order, from those of batches and the places of their rows; None if one is missing."""
    known = [part for part in parts if part is not None]
    return joined(known, places) if len(known) == len(parts) else None


def _classified(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The logits of `classify`. Raise ValueError, naming `model`, if it cannot read the inputs or gives no logits of rows."""
    kind = f"`model`: {type(unwrap(model)).__name__}"
    try:
        logits = classify(model, inputs)
    except (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # each architecture has its own way to fail
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(
            f"{kind} does not classify rows of {', '.join(inputs)} ({reason}). Use a classifier of whole pictures or texts, with "
            "the image processor or tokenizer that it was trained with."
        ) from error
    if logits.ndim != 2:
        raise ValueError(
            f"{kind} gives outputs of shape {tuple(logits.shape)}, and one row of scores is needed for each picture or text. Use a "
            "model `...ForImageClassification` or `...ForSequenceClassification`."
        )
    return logits


def logits_and_features(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return logits (B, classes) and what the last layer read for them (B, d), with the gradients of the model."""
    with last_layer_inputs(model) as seen:
        logits = classify(model, inputs)
    return logits, _features_of(logits, *seen[-1])


def _features_of(logits: Tensor, features: Tensor, outputs: Tensor) -> Tensor:
    """The features (B, d) behind the logits, from the last layer's inputs (B, ..., d) and outputs (B, ..., classes)."""
    if features.ndim == 2:
        return features
    # A decoder scores every token and keeps one: the token whose scores became the logits.
    features, outputs = features.flatten(1, -2), outputs.flatten(1, -2)
    kept = (outputs - logits[:, None]).abs().amax(-1).argmin(1)
    return features[torch.arange(len(kept), device=kept.device), kept]


def predict(
    model: nn.Module,
    dataset: Any,
    processor: Processor,
    batch_size: int = 128,
    limit: int | None = None,
    folder: str | Path | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return logits (n, classes) in fp32 and labels (n,), or None if one is missing, on the CPU in the order of the rows.

    Args:
        dataset: raw or prepared rows: a data set, a list or a stream.
        limit: the most rows to read; by default all.
        folder: the place of very large results (`new_table`); by default where temporary files go.
    """
    size = min(len(dataset), len(dataset) if limit is None else limit) if hasattr(dataset, "__len__") else None
    logits, labels, places = Collector(size, folder), [], []
    rows = islice(dataset, limit)
    texts = prepared_texts(rows, processor)
    for answer in answers(model, texts, processor.collate, batch_size, any_order=True, total=size):
        logits.add(answer.logits, answer.places)
        labels.append(answer.labels)
        places.append(answer.places)
    if not labels:
        raise ValueError("`dataset` is empty: there is nothing to predict.")
    return logits.table(), all_labels(labels, places)


def prepared_texts(rows: Iterable[Any], processor: Processor) -> Iterable[Any]:
    """Return `rows`, texts as token ids: their lengths are known then. Pictures stay as they are, because they are large."""
    return map(processor.prepared, rows) if processor.text else rows


def pooled_features(
    model: nn.Module,
    rows: Any,
    collate: Callable[[list[Any]], Mapping[str, Any]],
    batch_size: int = 128,
    depths: Sequence[float] = (1.0,),
) -> tuple[list[Tensor], Tensor | None]:
    """Return features (n, d) of `rows`, fp32, and labels (n,), or None if one is missing, all on the CPU.

    There are three for each of `depths`: the mean and the maximum over tokens or places of what a block gives, and what it gives
    for the first token. The block is the one at that share of all blocks, the last at 1. Layers behind the last block of a base
    are often untrained. Without blocks the features are what the last layer reads. Images of a convolution have no first token.
    """
    labels, places = [], []
    parts: list[list[Tensor]] = []
    with block_outputs(model, depths) as blocks:
        for answer in answers(model, rows, collate, batch_size, features=not blocks, any_order=True):
            found = [x for block in blocks for x in _pooled(block(), answer)] or [answer.features]  # type: ignore[list-item]
            parts = parts or [[] for _ in found]
            for part, features in zip(parts, found, strict=True):
                part.append(features.float().cpu())
            labels.append(answer.labels)
            places.append(answer.places)
    return [joined(part, places) for part in parts], all_labels(labels, places)


@contextmanager
def block_outputs(model: nn.Module, depths: Sequence[float]) -> Iterator[list[Callable[[], Tensor]]]:
    """Give for each of `depths` (see `pooled_features`) a function that returns what this block gave in the last forward pass.

    The list is empty for a model without blocks.
    """
    blocks, inner = find_blocks(model), unwrap(model)
    seen: dict[str, Any] = {}
    names = [blocks[max(math.ceil(depth * len(blocks)), 1) - 1] for depth in depths] if blocks else []
    handles = [inner.get_submodule(n).register_forward_hook(partial(_note, seen, n)) for n in dict.fromkeys(names)]
    try:
        yield [partial(seen.__getitem__, name) for name in names]
    finally:
        for handle in handles:
            handle.remove()


def _note(seen: dict[str, Any], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    seen[name] = output[0] if isinstance(output, tuple) else output


def block_means(blocks: Sequence[Callable[[], Tensor]], answer: Answers) -> list[Tensor]:
    """Return for each of the blocks of `block_outputs` the mean over tokens or places of what it gave for `answer` (B, d).

    None at all if a block has neither tokens nor places, as the layers of a perceptron.
    """
    hidden = [block() for block in blocks]
    return [_pooled(h, answer)[0] for h in hidden] if all(h.ndim > 2 for h in hidden) else []


def _pooled(hidden: Tensor, answer: Answers) -> list[Tensor]:
    """Return mean and maximum (B, d) over places (B, d, H, W) or over tokens (B, T, d), and what the first token has.

    Tokens that the attention mask of the inputs shows as padding do not count.
    """
    hidden, rows, mask = hidden.float(), len(answer.logits), answer.inputs.get("attention_mask")
    if hidden.ndim == 4:
        return [hidden.mean((-2, -1)), hidden.amax((-2, -1))]
    if hidden.shape[0] != rows:  # XLNet works on (T, B, d)
        hidden = hidden.transpose(0, 1)
    if mask is None or hidden.shape[1] < mask.shape[1]:  # Funnel shortens its texts
        return [hidden.mean(1), hidden.amax(1), hidden[:, 0]]
    hidden, real = hidden[:, : mask.shape[1]], mask.bool()[..., None]
    first = mask.int().argmax(1)  # padding may stand before the text
    mean = (hidden * real).sum(1) / real.sum(1).clamp_min(1)
    largest = hidden.masked_fill(~real, hidden.min()).amax(1)
    return [mean, largest, hidden[torch.arange(rows, device=hidden.device), first]]

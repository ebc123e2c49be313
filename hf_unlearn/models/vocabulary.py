"""Words of forgotten rows in a tokenizer: count the entries of its vocabulary that no kept row needs, and take them out.

A tokenizer that was trained on the data spells words of the rows to forget, whatever happens to the weights. The entries are
neither printed nor written anywhere; only their number is told.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from ..data.sampling import has_transform, read_rows
from .processor import Processor
from .text_inputs import READY

ELSEWHERE = 0.2  # share of entries that no row holds, from which on a vocabulary was made from other texts
ROWS = 1_000  # that are tokenized at once
JUDGED, SAMPLED = 2_000, 500_000  # entries that are looked for to find this share, and characters of texts to look in

_counted: WeakKeyDictionary[Any, list[tuple[Any, Any, "ForgottenWords"]]] = WeakKeyDictionary()  # by forget set


@dataclass(frozen=True)
class ForgottenWords:
    """Entries of a vocabulary (words, parts of words and steps of merging them) that rows to forget hold, and no kept row.

    Attributes:
        ids: numbers of these entries, ascending.
        size: number of entries of the vocabulary.
        made_here: False if the vocabulary clearly was made from other texts, so that its entries tell nothing of these rows.
    """

    ids: list[int] = field(repr=False)
    size: int
    made_here: bool

    @property
    def warning(self) -> str:
        """Say that the tokenizer gives words away, and what to do; "" if it does not."""
        if not self.ids or not self.made_here:
            return ""
        return (
            f"the tokenizer still spells words of the forgotten rows: {len(self.ids):,} entries of its vocabulary occur in them and in no "
            "kept row. Whoever gets the model can read them. Take them out with `--drop_forgotten_words true`, or train the "
            "tokenizer on kept rows only"
        )


def forgotten_words(processor: Processor, forget: Any, retain: Any) -> ForgottenWords | None:
    """Count the entries that rows of `forget` hold and no row of `retain`, in one pass of the tokenizer over both.

    Special tokens and single characters do not count. The answer for the same sets and tokenizer is kept.

    Returns:
        None if there is nothing to count: no texts, no tokenizer, no rows to forget, or kept rows that are missing or a stream.
    """
    tokenizer = processor.processing_class
    sized = all(hasattr(rows, "__len__") and len(rows) for rows in (forget, retain))
    if not processor.text or not hasattr(tokenizer, "get_vocab") or not sized:
        return None
    if not all(processor.inputs_among(_names(rows)) for rows in (forget, retain)):
        return None  # the checks of rows say what is wrong
    known = _counted.setdefault(forget, []) if hasattr(forget, "with_format") else []
    for of_tokenizer, of_retain, found in known:
        if of_tokenizer is tokenizer and of_retain is retain:
            return found
    spelled = _Spelling(tokenizer)
    own, kept = (spelled.ids_of(rows, processor) for rows in (forget, retain))
    found = spelled.only_in(own, kept)
    known.append((tokenizer, retain, found))
    return found


def without_words(processor: Processor, words: ForgottenWords, retain: Any) -> tuple[Any, list[int]]:
    """Return a copy of the tokenizer without these entries, and the numbers of the entries that went.

    Every other entry keeps its number, because the model's embeddings are found by it: a dropped entry becomes a name that
    no text holds. Every row of `retain` is tokenized by both and must give the same ids. An entry that a kept row or another
    entry needs stays.

    Raises:
        ValueError: the tokenizer has no file in which entries could be replaced, or is of an unknown kind.
    """
    tokenizer = processor.processing_class
    spelled = _Spelling(tokenizer)
    if spelled.kind not in _DROPS:
        what = type(tokenizer).__name__ if spelled.kind is None else f"a tokenizer of the kind {spelled.kind}"
        raise ValueError(
            f"`drop_forgotten_words`: {what} cannot be changed entry by entry; WordPiece, WordLevel, BPE and Unigram of the "
            "`tokenizers` library can. Train the tokenizer on kept rows only."
        )
    dropped = {number: spelled.names[number] for number in words.ids if number not in spelled.added}
    if READY in _rows(retain, processor)[1]:
        raise ValueError("`drop_forgotten_words`: the rows hold token ids, made before the run. Give their texts.")
    while dropped:
        changed = copy.deepcopy(tokenizer)
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        dropped = _DROPS[spelled.kind](content["model"], dropped)
        changed._tokenizer = Tokenizer.from_str(json.dumps(content))
        for name in [n for n in vars(changed) if n.startswith(("_vocab", "_merges"))]:
            delattr(changed, name)  # what it was built of
        differing = _read_differently(tokenizer, changed, retain, processor)
        if not differing:
            return changed, sorted(dropped)
        # An entry can begin a word that the tokenizer then gives up and calls unknown.
        normalizer = tokenizer.backend_tokenizer.normalizer
        needed = "\n".join(normalizer.normalize_str(t) if normalizer is not None else t for t in differing)
        staying = {number: name for number, name in dropped.items() if spelled.bare(name) not in needed}
        if len(staying) == len(dropped):
            raise ValueError(
                "`drop_forgotten_words`: without these entries the tokenizer reads kept rows in another way. Train the tokenizer on "
                "kept rows only."
            )
        dropped = staying
    return tokenizer, []


def blank_rows(model: nn.Module, ids: Sequence[int], unknown: int | None = None) -> None:
    """Give the embeddings of dropped entries the vector of the unknown token, else the mean of the others.

    No text reaches these rows any more, so no output changes. They would still tell with which class a word was seen.
    """
    config: Any = getattr(model, "config", None)
    size = getattr(getattr(config, "text_config", config), "vocab_size", None)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == size]
    with torch.no_grad():
        for table in tables if ids else ():
            rows = torch.tensor(ids, device=table.weight.device)
            if unknown is not None and unknown not in ids:
                vector = table.weight[unknown].clone()
            else:
                others = torch.ones(len(table.weight), dtype=torch.bool, device=rows.device)
                others[rows] = False
                vector = table.weight[others].mean(0)
            table.weight[rows] = vector


class _Spelling:
    """The entries of a tokenizer and how they are spelled."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.names: dict[int, str] = {number: name for name, number in tokenizer.get_vocab().items()}
        self.special = set(tokenizer.all_special_ids)
        self.added = {*getattr(tokenizer, "added_tokens_decoder", {})}
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        self.kind = None if model is None else type(model).__name__
        self.prefix: str = getattr(model, "continuing_subword_prefix", None) or ""
        self.words: set[str] = set()
        self._read = 0

    def bare(self, name: str) -> str:
        """Return an entry without the marks of its place in a word."""
        if self.prefix:
            name = name.removeprefix(self.prefix)
        return name.removesuffix("</w>").lstrip("Ġ▁")

    def ids_of(self, rows: Any, processor: Processor) -> set[int]:
        """Return the numbers of the entries that the tokenizer makes of `rows`, at their whole length."""
        seen = np.zeros(max(self.names, default=0) + 1, bool)
        for column, cells in _cells(rows, processor):
            texts = [cell for cell in cells if isinstance(cell, str)]
            ready = column == READY
            made = [cell for cell in cells if cell is not None] if ready else _ids(self.tokenizer, texts)
            numbers = np.concatenate([np.asarray(ids, np.int64) for ids in made or [[]]])
            seen[numbers[(numbers >= 0) & (numbers < len(seen))]] = True
            self._learn(texts)
        return set(np.flatnonzero(seen).tolist())

    def _learn(self, texts: Iterable[str]) -> None:
        """Remember words of the first texts as the tokenizer sees them."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        for text in texts if backend is not None and backend.pre_tokenizer is not None else ():
            if self._read > SAMPLED:
                break
            self._read += len(text)
            plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
            self.words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain))

    def only_in(self, own: set[int], kept: set[int]) -> ForgottenWords:
        """Find the entries that are among `own` or on the way to these, and are no part of an entry in `kept`.

        A part of a kept entry could have been made from kept rows alone, and BPE may need it to merge that entry.
        """
        count = {n: name for n, name in self.names.items() if n not in self.special and len(self.bare(name)) > 1}
        whole, kept_text, own_text = self.kind == "WordLevel", self._joined(kept), self._joined(own - kept)
        found = [
            n
            for n, name in count.items()
            if n not in kept
            and (n in own or (not whole and self._sought(name) in own_text))
            and (whole or self._sought(name) not in kept_text)
        ]
        held = "\n".join((kept_text, own_text, *sorted(self.words)))
        long = [(n, name) for n, name in count.items() if len(self.bare(name)) > 3]  # short ones are in any text
        judged = long[:: max(1, len(long) // JUDGED)]
        absent = sum(n not in own and n not in kept and self.bare(name) not in held for n, name in judged)
        return ForgottenWords(sorted(found), len(self.names), absent < ELSEWHERE * max(1, len(judged)))

    def _joined(self, ids: Iterable[int]) -> str:
        """Return the entries in one text, in which `_sought` finds an entry as a part of another one."""
        names = (self.names[n] for n in sorted(ids) if n in self.names and n not in self.special)
        marked = (f"\n\0{n.removeprefix(self.prefix)}" if self._inside(n) else f"\n{n}" for n in names)
        return "".join((*marked, "\n"))

    def _sought(self, name: str) -> str:
        if not self.prefix:
            return name
        return name.removeprefix(self.prefix) if self._inside(name) else f"\n{name}"

    def _inside(self, name: str) -> bool:
        return bool(self.prefix) and name.startswith(self.prefix)


def _names(rows: Any) -> tuple[str, ...]:
    """Return the names of the columns of `rows`, none if a row does not name them."""
    if hasattr(rows, "column_names") and not has_transform(rows):
        return tuple(rows.column_names)
    return tuple(rows[0]) if isinstance(rows[0], Mapping) else ()


def _rows(rows: Any, processor: Processor) -> tuple[Any, tuple[str, ...]]:
    """Return `rows` with only the columns that the tokenizer reads, and the names of these."""
    assert processor.texts is not None
    columns = processor.texts.columns(_names(rows))
    if has_transform(rows) or not hasattr(rows, "select_columns"):
        return rows, columns
    return rows.with_format(None).select_columns(list(columns)), columns


def _cells(rows: Any, processor: Processor) -> Iterator[tuple[str, list[Any]]]:
    """Yield column by column the cells of some rows at a time."""
    rows, columns = _rows(rows, processor)
    for start in range(0, len(rows), ROWS):
        part = read_rows(rows, list(range(start, min(start + ROWS, len(rows)))))
        for column in columns:
            yield column, [row[column] for row in part]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    out: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return out


def _read_differently(old: Any, new: Any, rows: Any, processor: Processor) -> list[str]:
    """Return the texts of which two tokenizers make different ids."""
    out = []
    for _, cells in _cells(rows, processor):
        texts = [cell for cell in cells if isinstance(cell, str)]
        both = zip(texts, _ids(old, texts), _ids(new, texts), strict=True)
        out += [text for text, before, after in both if before != after]
    return out


def _drop_from_words(model: dict[str, Any], dropped: dict[int, str]) -> dict[int, str]:
    """Replace entries of a WordPiece or WordLevel model, given as in tokenizer.json. Returns what was replaced."""
    model["vocab"] = _renamed(model["vocab"], dropped)
    return dropped


def _drop_from_pieces(model: dict[str, Any], dropped: dict[int, str]) -> dict[int, str]:
    """Replace pieces of a Unigram model. Their scores tell how frequent they were, so they get the lowest one."""
    names, lowest = {name: 0 for name, _ in model["vocab"]}, min(score for _, score in model["vocab"])
    for number in dropped:
        model["vocab"][number] = [_reserved(number, names), lowest]
    return dropped


def _drop_from_merges(model: dict[str, Any], dropped: dict[int, str]) -> dict[int, str]:
    """Replace entries of a BPE model and leave out the merges that make them. An entry that makes a kept one stays."""
    prefix, gone = model.get("continuing_subword_prefix") or "", set(dropped.values())
    merges = [(a, b, a + b.removeprefix(prefix)) for a, b in model["merges"]]
    while needed := {part for *pair, made in merges for part in pair if part in gone and made not in gone}:
        gone -= needed
    model["merges"] = [[a, b] for a, b, made in merges if made not in gone]
    dropped = {number: name for number, name in dropped.items() if name in gone}
    model["vocab"] = _renamed(model["vocab"], dropped)
    return dropped


def _renamed(vocabulary: dict[str, int], dropped: dict[int, str]) -> dict[str, int]:
    return {_reserved(n, vocabulary) if n in dropped else name: n for name, n in vocabulary.items()}


def _reserved(number: int, taken: dict[str, int]) -> str:
    """Return a name for a dropped entry that no other entry has."""
    name = f"[removed{number}]"
    while name in taken:
        name = f"[{name}]"
    return name


_DROPS = {
    "WordPiece": _drop_from_words,
    "WordLevel": _drop_from_words,
    "Unigram": _drop_from_pieces,
    "BPE": _drop_from_merges,
}

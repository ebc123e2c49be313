"""The base: the pretrained model that an original was fine-tuned from, which never saw the rows to forget."""

import copy
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

from ..utils.files import front_matter
from ..utils.hub_names import file_beside, is_local, pinned
from ..utils.loading_errors import located
from .adapters import base_classifier, is_adapted
from .classifier_class import from_pretrained_quietly
from .config_checks import HELD_ELSEWHERE, raw_config, read_config, weights_file
from .forward import unwrap
from .pretrained import base_of_adapter, load_processing_class
from .structure import find_heads, layer_groups, prefixes

REMEDY = "Name the model that the training started from, or `none` if it started from random weights."


@dataclass(frozen=True)
class StartingPoint:
    """Where the training of an original began, or where it may have begun.

    Attributes:
        model: a classifier like the original, with the weights of the base and a head of random weights; all are random without a
            base.
        shared: names of the parameters from which the original's were learned. The head is not among them, because the random
            weights that it began with are not known.
        pretrained: True if there is a base.
    """

    model: nn.Module
    shared: frozenset[str]
    pretrained: bool = True


@dataclass(frozen=True)
class Base:
    """The pretrained model behind an original. It is loaded when it is asked for, because most runs do not need it.

    Attributes:
        source: a folder or a repository on the Hub.
        revision: its commit on the Hub. None for a folder, or where the Hub did not answer.
        named_by: what named it, for messages: `base_model`, or the file beside the original that it was found in.
    """

    source: str
    revision: str | None = None
    named_by: str = "base_model"

    def describe(self) -> dict[str, Any]:
        """Return what a report may say: the name and commit on the Hub, or that it is a folder, whose name stays here."""
        return {
            "id": None if is_local(self.source) else self.source,
            "revision": self.revision,
            "named_by": self.named_by,
        }

    def load(self, original: nn.Module, seed: int = 0) -> nn.Module:
        """Return a classifier like `original` with the weights of this base and a head of random weights, drawn with `seed`.

        Layers behind the last block that the base lacks, such as a pooler, are random too. Errors are those of `start`.
        """
        return self.start(original, seed).model

    def start(self, original: nn.Module, seed: int = 0) -> StartingPoint:
        """Return `load`, and the names of the parameters that hold weights of the base.

        Raises:
            ValueError: the base has another architecture or other shapes, lacks weights, or is a classifier of the same classes,
                such as the original itself.
            OSError: there are no weights, or only a pickle.
        """
        classifier: Any = base_classifier(original)
        weights_file(self.source, self.revision)
        config = copy.deepcopy(classifier.config)
        own = read_config(self.source, self.revision, HELD_ELSEWHERE)
        if own.model_type != config.model_type:
            raise ValueError(
                f"`base_model={self.source!r}` is a {own.model_type}, and the original a {config.model_type}. {REMEDY}"
            )
        model, found = from_pretrained_quietly(type(classifier), self.source, config, self.revision)
        heads = prefixes(find_heads(model))
        head = {name for name, _ in model.named_parameters() if name.startswith(heads)}
        fresh = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
        self._check(model, found, heads)
        if not head & fresh and own.id2label == config.id2label:
            raise ValueError(
                f"`base_model={self.source!r}` is a trained classifier of the same classes, so it may have seen the rows to forget. {REMEDY}"
            )
        torch.manual_seed(seed)
        drawn = dict(type(classifier)(config).named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in fresh | head:
                    parameter.copy_(drawn[name])
        return StartingPoint(model, frozenset(drawn.keys() - fresh - head))

    def _check(self, model: nn.Module, found: dict[str, Any], heads: tuple[str, ...]) -> None:
        """Raise ValueError if weights in front of the head are missing or have other shapes."""
        for name, theirs, ours in found["mismatched_keys"]:
            if not name.startswith(heads):
                raise ValueError(
                    f"`base_model={self.source!r}` does not fit the original: {name} is {tuple(theirs)} there and {tuple(ours)} in the "
                    f"original. {REMEDY}"
                )
        names = [name for name, _ in model.named_parameters()]
        behind = layer_groups(model, names).get("head", [])
        lacking = [name for name in names if name in found["missing_keys"] and name not in behind]
        if lacking := [name for name in lacking if not name.startswith(heads)]:
            raise ValueError(
                f"`base_model={self.source!r}` lacks {len(lacking)} weights of the original, such as {lacking[0]}. {REMEDY}"
            )


def random_start(original: nn.Module, seed: int = 0) -> StartingPoint:
    """Return a model like `original` with random weights, drawn with `seed`: where it began if it was trained from scratch."""
    classifier: Any = base_classifier(original)
    torch.manual_seed(seed)
    model = type(classifier)(classifier.config)
    heads = prefixes(find_heads(model))
    return StartingPoint(model, frozenset(n for n, _ in model.named_parameters() if not n.startswith(heads)), False)


def find_base(source: str, revision: str | None = None) -> Base | None:
    """Return the base that is named beside the original at `source`; None if nothing there names one.

    Places are looked at in this order: the configuration of an adapter, whose base the original is an addition to; `base_model`
    in the model's card; `_name_or_path` in its config.json, which transformers wrote before version 5.
    """
    if adapter := find_adapter_config_file(source, revision=revision):
        return Base(*base_of_adapter(adapter, source), named_by="the adapter's configuration")
    card = file_beside(source, "README.md", revision)
    told = None if card is None else front_matter(card).get("base_model")
    named = told[0] if isinstance(told, list) and len(told) == 1 else told
    for given, place in ((named, "the model's card"), (_former_name(source, revision), "config.json")):
        if isinstance(given, str) and given and not _same(given, source):
            with suppress(ValueError):  # `org/name@`, and other words that can name nothing
                return Base(*pinned(given), named_by=place)
    return None


def lies_on(model: nn.Module, base: object) -> bool:
    """Return True if `model` is a `PeftModel` whose first adapter was trained on `base`: then nothing below it knows the rows.

    A base that is a trained classifier of the same classes may have seen the rows itself, so it does not count.
    """
    if not (is_adapted(model) and isinstance(base, Base)):
        return False
    peft_model: Any = unwrap(model)
    name = next(iter(peft_model.peft_config.values())).base_model_name_or_path
    if not name or not _same(os.path.expanduser(name), base.source):
        return False
    try:
        with torch.random.fork_rng(devices=[]):
            base.load(model)
    except (ValueError, OSError):
        return False
    return True


def given_base(name: str, revision: str | None = None) -> Base:
    """Return the base that the user named, pinned to a commit if it is on the Hub.

    Raises:
        ValueError: there is no such folder, or a folder is given with a revision.
    """
    return Base(*pinned(located(name, "base_model"), revision, "base_model"))


def check_tokenizer(base: Base, tokenizer: Any) -> None:
    """Raise ValueError if the base has a tokenizer that gives other ids than `tokenizer`, that of the original."""
    try:
        theirs = load_processing_class(base.source, None, base.revision)
    except (OSError, ValueError):  # many bases of images have no processor, and a tokenizer may be kept elsewhere
        return
    if not (hasattr(theirs, "get_vocab") and hasattr(tokenizer, "get_vocab")):
        return
    ours = tokenizer.get_vocab()
    if other := [word for word, number in theirs.get_vocab().items() if ours.get(word) != number]:
        raise ValueError(
            f"`base_model={base.source!r}` has another tokenizer than the original: {len(other):,} of its entries have other numbers "
            f"there. {REMEDY}"
        )


def _former_name(source: str, revision: str | None) -> Any:
    with suppress(OSError, ValueError):
        return raw_config(source, revision).get("_name_or_path")
    return None


def _same(name: str, source: str) -> bool:
    return name == source or (os.path.exists(name) and os.path.exists(source) and os.path.samefile(name, source))

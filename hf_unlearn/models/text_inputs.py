"""`TextInputs`: a row of texts, of pairs of texts, or of token ids becomes the inputs of a text classifier."""

import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.image_processing_base import ImageProcessingMixin

from .adapters import base_classifier

logger = logging.getLogger(__name__)

READY = "input_ids"
PAIRS = (
    ("premise", "hypothesis"), ("question", "sentence"), ("question1", "question2"), ("sentence1", "sentence2"),
    ("question", "passage"), ("question", "context"), ("query", "passage"), ("query", "document"), ("claim", "evidence"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("sentence_A", "sentence_B"),
)  # fmt: skip
USUAL = (("text", "text_pair"), ("text",), *PAIRS, ("sentence",), ("content",))
# The configuration names the longest text by one of these. Where there are two, both apply.
LENGTHS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
    "max_seq_len",
)
UNLIMITED = 10**9  # a tokenizer that knows no limit states a larger number


class TextInputs:
    """Turns a row into the token ids that the model reads.

    Args:
        model: the classifier, for its configuration and its table of positions.
        tokenizer: its tokenizer; None serves rows that hold `input_ids` already. A tokenizer without a pad token gets the one of
            the model, where that is safe.
        text_column: column of texts; two columns (a list, or "a,b") for pairs of texts. None: the usual names.

    Raises:
        ValueError: the tokenizer does not fit the model, or no pad token is defined.
    """

    def __init__(self, model: nn.Module, tokenizer: Any | None, text_column: str | Sequence[str] | None = None) -> None:
        base = base_classifier(model)
        self.config: Any = getattr(base.config, "text_config", base.config)
        self.tokenizer: Any = tokenizer
        self.text_column = _unpacked(text_column)
        self.vocabulary: int | None = getattr(self.config, "vocab_size", None)
        self.positions, self.fixed = position_limit(base, self.config)
        if tokenizer is not None:
            check_tokenizer(tokenizer, self.vocabulary)
        settle_padding(base, self.config, tokenizer, self.vocabulary)
        # BART and T5 classify by the last end token, and all texts of a batch must have the same number of them.
        self.end: int | None = (
            getattr(self.config, "eos_token_id", None) if reads_setting(base, "eos_token_id") else None
        )
        self._warned: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that may be read."""
        given = named_columns(self.text_column) or (name for names in USUAL for name in names)
        return tuple(dict.fromkeys((*([self.text_column] if isinstance(self.text_column, str) else []), *given, READY)))

    def columns(self, row: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the columns to read: `input_ids`, one column of texts, or two. Raises ValueError without any."""
        return (READY,) if READY in row else find_text_columns(row, self.text_column)

    def warn_unread(self, row: Mapping[str, Any], argument: str, others: Iterable[str]) -> None:
        """Warn once about columns of texts that are not read, unless the user named the column. `others` are no texts."""
        if self.text_column is not None:
            return
        read = self.columns(row)
        unread = [
            name for name, value in row.items() if isinstance(value, str) and len(value.split()) > 1 and name not in (*read, *others)
        ]  # fmt: skip
        if unread and not self._warned.issuperset(unread):
            self._warned.update(unread)
            logger.warning(
                "`%s`: of the columns with texts only %s is read, and %s is not. If the model reads pairs of texts, name both "
                "columns in `text_column`.",
                argument,
                " and ".join(f"'{c}'" for c in read),
                ", ".join(f"'{c}'" for c in unread),
            )

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the inputs (T,) of a row, without padding."""
        columns = self.columns(row)
        if columns == (READY,):
            return self._ready(row)
        if self.tokenizer is None:
            raise ValueError(
                f"column '{columns[0]}' holds text, and `processing_class` is missing. Pass the tokenizer."
            )
        for column in columns:
            if not isinstance(row[column], str):
                kind = "None" if row[column] is None else f"a value of type {type(row[column]).__name__}"
                raise ValueError(f"column '{column}' holds {kind}, not a text. Drop such rows, or make each a string.")
        out = self._encode([row[c] for c in columns])
        where = " and ".join(f"'{c}'" for c in columns)
        if not out[READY].numel():
            raise ValueError(f"column {where} is empty: the tokenizer makes no token of it. Drop such rows.")
        self._check_ids(out[READY], f"column {where}")
        if self.end is not None and self._ends(out[READY]) != self._ends(self._encode([""] * len(columns))[READY]):
            raise ValueError(
                f"column {where} holds the end token (id {self.end}), by which the model finds the end of a text. Remove it there."
            )
        if getattr(self.config, "type_vocab_size", None) == 1:
            out.pop("token_type_ids", None)  # the second text of a pair has a type that the model does not know
        return out

    @property
    def length_limit(self) -> int | None:
        """The most tokens of a text: what model and tokenizer both admit. None if neither states a limit."""
        stated = getattr(self.tokenizer, "model_max_length", None)
        known = [n for n in (self.positions, stated) if n is not None and 0 < n < UNLIMITED]
        return min(known, default=None)

    def _ready(self, row: Mapping[str, Any]) -> dict[str, Tensor]:
        names = (READY, "attention_mask", "token_type_ids")
        out = {name: _as_numbers(row[name], name) for name in names if row.get(name) is not None}
        if READY not in out:
            raise ValueError(f"column '{READY}' holds None. Drop such rows.")
        ids = out[READY]
        if ids.ndim != 1 or not ids.numel():
            raise ValueError(
                f"column '{READY}' has shape {tuple(ids.shape)}; a row needs a list of at least one token id."
            )
        if ids.is_floating_point():
            raise ValueError(f"column '{READY}' holds {ids.dtype} numbers. Token ids are whole numbers.")
        out.setdefault("attention_mask", torch.ones_like(ids))  # or padding would be attended to
        for name, values in out.items():
            if values.shape != ids.shape:
                raise ValueError(f"column '{name}' has shape {tuple(values.shape)}, and '{READY}' {tuple(ids.shape)}.")
        if not out["attention_mask"].any():
            raise ValueError(
                "column 'attention_mask' is 0 everywhere, so the model would read no token. Drop such rows."
            )
        self._check_ids(ids, f"column '{READY}'")
        if self.fixed and self.positions is not None and len(ids) > self.positions:
            raise ValueError(
                f"column '{READY}' has {len(ids)} tokens, and the model has positions for {self.positions}. Cut these rows: "
                f"`tokenizer(..., truncation=True, max_length={self.positions})`."
            )
        types = getattr(self.config, "type_vocab_size", None)
        if types and "token_type_ids" in out and int(out["token_type_ids"].max()) >= types:
            raise ValueError(
                f"column 'token_type_ids' goes up to {int(out['token_type_ids'].max())}, the model has {types} types."
            )
        return out

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        limit = self.length_limit
        cut = {"truncation": False} if limit is None else {"truncation": True, "max_length": limit}
        if len(texts) == 1:
            return {name: torch.as_tensor(ids) for name, ids in self.tokenizer(texts[0], **cut).items()}
        # As a batch of one pair, because a tokenizer drops an empty second text that is given alone.
        return {
            name: torch.as_tensor(ids[0]) for name, ids in self.tokenizer(*([text] for text in texts), **cut).items()
        }

    def _ends(self, ids: Tensor) -> int:
        return int(torch.eq(ids, self.end or 0).sum())

    def _check_ids(self, ids: Tensor, where: str) -> None:
        wrong = ids[(ids < 0) | (ids >= self.vocabulary)] if self.vocabulary else ids[:0]
        if len(wrong):
            raise ValueError(
                f"{where} gives token id {int(wrong[0])}, and the model's vocabulary has ids 0..{self.vocabulary - 1}. "  # type: ignore[operator]
                "Use the model's own tokenizer. If tokens were added, the model must be resized and trained with them."
            )
        if self.end is not None and not self._ends(ids):
            raise ValueError(
                f"{where} gives no end token, and the model answers at `eos_token_id` {self.end}. Use the model's own tokenizer."
            )


def _as_numbers(value: Any, column: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # texts, None among numbers, lists of several lengths, 10**30
        raise ValueError(f"column '{column}' does not hold a flat list of whole numbers. Drop such rows.") from error


def _unpacked(text_column: str | Sequence[str] | None) -> str | Sequence[str] | None:
    """The command line gives a list also for a single name."""
    return text_column[0] if isinstance(text_column, list | tuple) and len(text_column) == 1 else text_column


def named_columns(text_column: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns that the user named: none, one or two. Raises ValueError if there are more."""
    if text_column is None:
        return ()
    parts = text_column.split(",") if isinstance(text_column, str) else text_column
    names = tuple(str(part).strip() for part in parts)
    if len(names) not in (1, 2) or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"`text_column` takes one column of texts, or two for pairs of texts; got {text_column!r}.")
    return names


def find_text_columns(names: Iterable[str], text_column: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the column or the two columns of texts among `names`: those of `text_column`, else the first usual ones.

    Raises:
        ValueError: a column that the user named is not there, or there is no usual one.
    """
    known, text_column = list(names), _unpacked(text_column)
    if isinstance(text_column, str) and text_column in known:  # its name may hold a comma
        return (text_column,)
    given = named_columns(text_column)
    if missing := [name for name in given if name not in known]:
        raise ValueError(
            f"no text column among {', '.join(known)} has the name '{missing[0]}' that `text_column` gives."
        )
    found = given or next((usual for usual in USUAL if set(usual) <= set(known)), ())
    if not found:
        raise ValueError(f"no text column among {', '.join(known)}. Name it in `text_column`, or rename it `text`.")
    return found


def position_limit(model: nn.Module, config: Any) -> tuple[int | None, bool]:
    """Return the most tokens that the model has positions for, and whether a table of positions makes this limit a hard one.

    RoBERTa and its kin count positions from `padding_idx + 1` on, so the table holds fewer texts than it has rows. A
    configuration without a length, or with -1 (XLNet), sets no limit: None.
    """
    stated = [n for name in LENGTHS if isinstance(n := getattr(config, name, None), int) and n > 0]
    limit, fixed = min(stated, default=None), False
    if limit is None:
        return None, False
    for name, module in model.named_modules():
        if not re.search(r"(^|\.|_)(position_embeddings|embed_positions|positions_embed|wpe)$", name):
            continue
        fixed, first = True, getattr(module, "padding_idx", None)
        if first is not None and getattr(module, "num_embeddings", limit) <= limit:
            limit = min(limit, getattr(module, "num_embeddings", limit) - first - 1)
    return limit, fixed


def check_tokenizer(tokenizer: Any, vocabulary: int | None) -> None:
    """Raise ValueError if `tokenizer` is none, knows no words, or has more words than the model's `vocabulary`."""
    if not callable(tokenizer) or isinstance(tokenizer, ImageProcessingMixin):
        raise ValueError(
            f"`processing_class` is a {type(tokenizer).__name__}, no tokenizer of transformers. Load it with "
            "`AutoTokenizer.from_pretrained(...)`, or wrap it: `PreTrainedTokenizerFast(tokenizer_object=...)`."
        )
    if READY not in getattr(tokenizer, "model_input_names", (READY,)):
        raise ValueError(
            f"the tokenizer's `model_input_names` lack '{READY}'. Correct them in its tokenizer_config.json."
        )
    if not hasattr(tokenizer, "get_vocab") or vocabulary is None:
        return
    size = len(tokenizer)
    if size < 1000:
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}
        if not words:
            raise ValueError(
                f"the tokenizer knows no words, only {size} special tokens: its files were missing where it was loaded from. "
                "Save the tokenizer that the model was trained with beside the model: `tokenizer.save_pretrained(folder)`."
            )
    if size > vocabulary:
        added = getattr(tokenizer, "added_tokens_encoder", {})  # these may never occur, so rows are checked for them
        beyond = sum(number >= vocabulary and token not in added for token, number in tokenizer.get_vocab().items())
        if beyond:
            raise ValueError(
                f"the tokenizer has {beyond} tokens beyond the model's vocabulary of {vocabulary}: it belongs to another model. "
                "Use the tokenizer that the model was trained with."
            )


def settle_padding(model: nn.Module, config: Any, tokenizer: Any | None, vocabulary: int | None) -> None:
    """Make tokenizer and model agree on a pad token where the model needs one.

    A decoder classifies by the last token that is not `config.pad_token_id`, so padding with another id would make it read the
    padding. Other models hide padding by the attention mask.

    Raises:
        ValueError: there is no pad token that both know. The message says how to set it.
    """
    model_id, finds_end = getattr(config, "pad_token_id", None), reads_setting(model, "pad_token_id")
    if tokenizer is None or not hasattr(tokenizer, "pad_token_id"):
        if finds_end and model_id is None:
            raise ValueError(
                "the model needs a pad token to find the end of each text, and its `pad_token_id` is None. Set it: "
                "`model.config.pad_token_id = tokenizer.pad_token_id`, or `pad_token_id` in its config.json."
            )
        return
    own_id = tokenizer.pad_token_id
    if own_id is not None and vocabulary is not None and own_id >= vocabulary:
        raise ValueError(
            f"the tokenizer's `pad_token` '{tokenizer.pad_token}' has id {own_id}, and the model's vocabulary has ids 0.."
            f"{vocabulary - 1}. Use a token that the model knows: `tokenizer.pad_token = tokenizer.eos_token`."
        )
    if finds_end and model_id is None:
        first = "" if own_id is not None else "`tokenizer.pad_token = tokenizer.eos_token` and then "
        raise ValueError(
            "the model needs a pad token to find the end of each text, and its `pad_token_id` is None. Set it: "
            f"{first}`model.config.pad_token_id = tokenizer.pad_token_id`, or `pad_token_id` in its config.json."
        )
    if own_id is not None and (own_id == model_id or not finds_end):
        return
    token = None if model_id is None else tokenizer.convert_ids_to_tokens(model_id)
    # A word must not become the pad token: the tokenizer would cut it out of other words.
    if token is None or not (token in tokenizer.all_special_tokens or re.fullmatch(r"\[.*\]|<.*>", token)):
        wanted = "no `pad_token`" if own_id is None else f"`pad_token_id` {own_id}"
        raise ValueError(
            f"the tokenizer has {wanted}, and the model's `pad_token_id` ({model_id}) is no special token of the tokenizer. Set "
            "both to one token: `tokenizer.pad_token = tokenizer.eos_token; model.config.pad_token_id = tokenizer.pad_token_id`."
        )
    before = "had no pad token" if own_id is None else f"padded with '{tokenizer.pad_token}'"
    tokenizer.pad_token = token
    logger.warning("The tokenizer %s. It now pads with '%s', the model's pad token (id %d).", before, token, model_id)


def reads_setting(model: nn.Module, name: str) -> bool:
    """Check whether the forward pass of the classifier itself reads `name` of its configuration."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    return code is not None and name in code.co_names

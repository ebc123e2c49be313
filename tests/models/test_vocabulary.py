"""Words that only forgotten rows hold: counted and taken out of every kind of tokenizer, while kept rows stay as they are."""

import json
import random

import datasets
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from hf_unlearn.models.processor import Processor
from hf_unlearn.models.vocabulary import ForgottenWords, blank_rows, forgotten_words, without_words
from tests.support.data import image_data, image_processor, text_data, tokenizer
from tests.support.models import build

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
PREFIX, SUFFIX = {"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}
UNKNOWN = {"unk_token": "[UNK]"}
BYTES = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
KINDS = {
    "WordPiece": (models.WordPiece, UNKNOWN, trainers.WordPieceTrainer, {}, pre_tokenizers.BertPreTokenizer()),
    "WordLevel": (models.WordLevel, UNKNOWN, trainers.WordLevelTrainer, {}, pre_tokenizers.Whitespace()),
    "byte BPE": (models.BPE, {}, trainers.BpeTrainer, BYTES, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "BPE ##": (models.BPE, UNKNOWN | PREFIX, trainers.BpeTrainer, PREFIX, pre_tokenizers.Whitespace()),
    "BPE </w>": (models.BPE, UNKNOWN | SUFFIX, trainers.BpeTrainer, SUFFIX, pre_tokenizers.Whitespace()),
    "Unigram": (models.Unigram, {}, trainers.UnigramTrainer, UNKNOWN, pre_tokenizers.Metaspace()),
}
CLASSES = ("BertTokenizer", "GPT2Tokenizer", "T5Tokenizer", "LlamaTokenizer", "XLMRobertaTokenizer", "CLIPTokenizer")
DRAW = random.Random(0)


def word(length):
    return "".join(DRAW.choice("abcdefghijklmnopqrstuvwxyzä") for _ in range(length))


COMMON, RARE, OTHER = ([word(n) for _ in range(count)] for n, count in ((5, 60), (9, 6), (7, 300)))
KEPT = [" ".join(DRAW.choices(COMMON, k=8)) for _ in range(120)]
FORGET = [f"{DRAW.choice(COMMON)} {RARE[i % 6]} {RARE[i % 6]} {DRAW.choice(COMMON)}" for i in range(60)]


def rows(texts):
    return datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)})


def made(kind, texts):
    if kind in CLASSES:
        of = getattr(transformers, kind)().train_new_from_iterator(texts, 900, show_progress=False)
        of.pad_token = of.pad_token or of.unk_token
        return of
    model, given, trainer, settings, splitter = KINDS[kind]
    words = Tokenizer(model(**given))
    words.pre_tokenizer = splitter
    if kind == "WordPiece":
        words.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    words.train_from_iterator(
        texts, trainer(vocab_size=900, special_tokens=list(SPECIAL.values()), show_progress=False, **settings)
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)


def processor(of):
    model = build("bert")
    model.config.vocab_size, model.config.pad_token_id = len(of), of.pad_token_id
    return Processor(model, of)


@pytest.mark.parametrize("kind", [*KINDS, *CLASSES])
def test_rare_words_are_found_and_taken_out_and_kept_rows_are_read_as_before(tmp_path, kind):
    old = made(kind, KEPT + FORGET)
    forget, kept = rows(FORGET), rows(KEPT)
    words = forgotten_words(processor(old), forget, kept)
    assert words.made_here
    assert words.size == len(old)
    held = {name.replace("##", "").replace("</w>", "").lstrip("Ġ▁") for name in old.convert_ids_to_tokens(words.ids)}
    spelled = [w for w in RARE if w in old.backend_tokenizer.to_str()]
    assert all(any(w in name for name in held) for w in spelled)
    assert not held & {*COMMON}
    new, dropped = without_words(processor(old), words, kept)
    assert dropped == words.ids
    new.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(old)  # so the embeddings fit
    assert [old(t).input_ids for t in KEPT] == [loaded(t).input_ids for t in KEPT]
    files = "".join(p.read_text() for p in tmp_path.iterdir())
    spelled = [json.dumps(w)[1:-1] for w in RARE] + RARE
    assert not [w for w in spelled if w in files]
    assert not [
        n for n in held if len(n) > 4 and n in json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    ]
    again = forgotten_words(processor(loaded), forget, kept)
    assert again.ids == []
    assert again.warning == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_of_other_texts_is_no_reason_to_warn(kind):
    words = forgotten_words(processor(made(kind, [" ".join(OTHER)] * 3)), rows(FORGET), rows(KEPT))
    assert not words.made_here
    assert words.warning == ""


def test_the_warning_counts_and_says_what_to_do_but_quotes_nothing():
    words = ForgottenWords(list(range(1200)), 4000, True)
    assert "1,200 entries" in words.warning
    assert "--drop_forgotten_words true" in words.warning
    assert "1199" not in repr(words)


def test_an_entry_that_begins_an_unknown_kept_word_stays():
    vocabulary = [*SPECIAL.values(), "abc", "ab", "##cz", "dee"]
    pieces = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    old = PreTrainedTokenizerFast(tokenizer_object=pieces, **SPECIAL)
    kept, forget = rows(["abcz"]), rows(["abc dee"])
    words = forgotten_words(processor(old), forget, kept)
    new, dropped = without_words(processor(old), words, kept)
    # Without `abc`, which the forgotten row alone holds, `abcz` would no longer be unknown but `ab` and `##cz`.
    assert set(old.convert_ids_to_tokens(words.ids)) == {"abc", "ab", "dee"}
    assert "dee" in old.convert_ids_to_tokens(dropped)
    assert new("abcz").input_ids == old("abcz").input_ids == [old.unk_token_id]


def test_only_texts_with_two_sets_are_counted():
    texts = processor(tokenizer())
    assert forgotten_words(Processor(build("vit"), image_processor()), image_data(4), image_data(4)) is None
    assert forgotten_words(Processor(build("bert")), text_data(4), text_data(4)) is None
    assert forgotten_words(texts, None, text_data(4)) is None
    assert forgotten_words(texts, [("w1", 0)], text_data(4)) is None  # the checks of rows name what is wrong
    assert forgotten_words(texts, text_data(4).rename_column("text", "body"), text_data(4)) is None
    assert forgotten_words(texts, text_data(4), text_data(4).to_iterable_dataset()) is None
    assert forgotten_words(texts, text_data(8), text_data(8)).ids == []


@pytest.mark.parametrize("form", ["list", "transform", "prepared"])
def test_rows_of_every_form_are_counted(form):
    old, lists = made("WordLevel", KEPT + FORGET), [[{"text": t} for t in texts] for texts in (FORGET, KEPT)]
    if form == "transform":
        lists = [rows(t).with_transform(lambda r: {"text": r["text"]}) for t in (FORGET, KEPT)]
    if form == "prepared":
        lists = [rows(t).map(lambda r: {"input_ids": old(r["text"]).input_ids}) for t in (FORGET, KEPT)]
    words = forgotten_words(processor(old), *lists)
    assert sorted(old.convert_ids_to_tokens(words.ids)) == sorted(RARE)
    if form == "prepared":
        with pytest.raises(ValueError, match="hold token ids"):
            without_words(processor(old), words, lists[1])


def test_a_tokenizer_that_cannot_be_changed_is_refused():
    class Letters(PreTrainedTokenizer):
        vocab_size = 30

        def get_vocab(self):
            return {chr(97 + i): i for i in range(26)} | {"[UNK]": 26}

        def _tokenize(self, text, **_):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.get_vocab().get(token, 26)

        def _convert_id_to_token(self, index):
            return chr(97 + index)

    letters = Letters(unk_token="[UNK]", pad_token="[UNK]")
    with pytest.raises(ValueError, match="`drop_forgotten_words`: Letters cannot be changed entry by entry"):
        without_words(processor(letters), ForgottenWords([1], 27, True), rows(KEPT))


@pytest.mark.parametrize("unknown", [1, None])
def test_embeddings_of_dropped_entries_tell_nothing(unknown):
    model = build("bert")
    table = model.get_input_embeddings().weight
    before = table.detach().clone()
    blank_rows(model, [5, 7], unknown)
    others = [i for i in range(len(table)) if i not in (5, 7)]
    wanted = before[1] if unknown == 1 else before[others].mean(0)
    assert torch.equal(table[[5, 7]], wanted.expand(2, -1))
    assert torch.equal(table[others], before[others])

"""A text classifier reads what its tokenizer makes of a text or a pair of texts, as long as both fit each other."""

import logging

import datasets
import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hf_unlearn.models.forward import classify, continuous_input, model_inputs, replace_by
from hf_unlearn.models.processor import Processor
from hf_unlearn.models.text_inputs import check_tokenizer, find_text_columns, named_columns
from tests.support.data import image_processor, tokenizer
from tests.support.models import build

SMALL = {
    "vocab_size": 28, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 4,
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "max_position_embeddings": 34,
}  # fmt: skip
LONG = " ".join(["w5"] * 100)


def words(pad="[PAD]", special=True, **more):
    """A tokenizer of its own for each test, because a missing pad token is written into it. It knows pairs."""
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
    template = (
        {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
        if special
        else {"single": "$A", "pair": "$A $B:1"}
    )
    ids = [("[CLS]", 2), ("[SEP]", 3)]
    made.backend_tokenizer.post_processor = TemplateProcessing(**template, special_tokens=ids)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
    named = names | ({"pad_token": pad} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, **named, **more)


def model(kind, head="ForSequenceClassification", **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **more})
    return getattr(transformers, f"{kind}{head}")(config).eval()


def gpt2(**more):
    sizes = {"vocab_size": 28, "n_positions": 34, "n_embd": 16, "n_layer": 2, "n_head": 2, "num_labels": 4}
    torch.manual_seed(0)
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, eos_token_id=3, **more)).eval()


def bart():
    sizes = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    more = {
        "vocab_size": 28,
        "d_model": 16,
        "max_position_embeddings": 34,
        "num_labels": 4,
        "pad_token_id": 0,
        "eos_token_id": 3,
    }
    torch.manual_seed(0)
    config = transformers.BartConfig(**sizes, **more, bos_token_id=2, decoder_start_token_id=2)
    return transformers.BartForSequenceClassification(config).eval()


def xlnet():
    sizes = {
        "vocab_size": 28,
        "d_model": 16,
        "n_layer": 2,
        "n_head": 2,
        "d_inner": 32,
        "num_labels": 4,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    return transformers.XLNetForSequenceClassification(transformers.XLNetConfig(**sizes)).eval()


# --- which columns are read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "given", "found"),
    [
        (["idx", "premise", "hypothesis", "label"], None, ("premise", "hypothesis")),
        (["question", "sentence", "label"], None, ("question", "sentence")),
        (["question1", "question2", "label"], None, ("question1", "question2")),
        (["label", "sentence2", "sentence1"], None, ("sentence1", "sentence2")),
        (["passage", "question"], None, ("question", "passage")),
        (["text", "text_pair"], None, ("text", "text_pair")),
        (["premise", "hypothesis", "text"], None, ("text",)),
        (["sentence", "label"], None, ("sentence",)),
        (["content"], None, ("content",)),
        (["a", "b"], ["b", "a"], ("b", "a")),
        (["a", "b"], "a,b", ("a", "b")),
        (["a", "b"], "a, b", ("a", "b")),
        (["a", "b"], ["a,b"], ("a", "b")),
        (["a", "b", "a,b"], "a,b", ("a,b",)),
        (["question", "sentence"], "sentence", ("sentence",)),
    ],
)
def test_the_columns_are_those_that_were_named_or_the_usual_ones(names, given, found):
    assert find_text_columns(names, given) == found


@pytest.mark.parametrize("given", [["a", "b", "c"], "a,a", [], "a,", ""])
def test_other_numbers_of_columns_are_refused(given):
    with pytest.raises(ValueError, match="`text_column` takes one column of texts, or two"):
        named_columns(given)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no text column among a, b has the name 'c' that `text_column` gives"):
        find_text_columns(["a", "b"], ["a", "c"])


def test_a_pair_becomes_what_the_tokenizer_makes_of_a_batch_of_pairs():
    first, second = ["w1 w2", "w3"], ["w4", ""]
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokens, processor = words(model_input_names=names), Processor(build("bert"), words(model_input_names=names))
    rows = [{"question": a, "sentence": b, "label": 0} for a, b in zip(first, second, strict=True)]
    batch, expected = processor.collate(rows), tokens(first, second, padding=True, return_tensors="pt")
    assert expected["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    for key in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(batch[key], expected[key])


def test_a_model_with_one_type_reads_no_types():
    tokens = words(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    row = Processor(build("roberta"), tokens)({"premise": "w1", "hypothesis": "w2"})
    assert build("roberta").config.type_vocab_size == 1
    assert set(row) == {"input_ids", "attention_mask"}


def test_columns_with_texts_that_are_not_read_are_named_once(caplog):
    processor = Processor(build("bert"), words())
    rows = datasets.Dataset.from_dict({"text": ["w1 w2"], "title": ["w3 w4"], "user": ["u1"], "label": ["not a text"]})
    processor.config.label2id = {}
    processor.label2id = {"not a text": 0}
    with caplog.at_level(logging.WARNING, "hf_unlearn.models.text_inputs"):
        processor.check(rows, "forget_dataset")
        processor.check(rows, "retain_dataset")
    (record,) = caplog.records
    assert "`forget_dataset`: of the columns with texts only 'text' is read, and 'title' is not" in record.getMessage()
    caplog.clear()
    Processor(build("bert"), words(), text_column="text").check(rows.remove_columns("label"), "forget_dataset")
    assert not caplog.records


# --- how long a text may be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "length"),
    [
        ("Bert", {}, 34),
        ("Electra", {"embedding_size": 16}, 34),
        ("Albert", {"embedding_size": 16}, 34),
        ("Nystromformer", {}, 34),
        ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, 34),
        ("ModernBert", {"cls_token_id": 2}, 34),
        ("Roberta", {"type_vocab_size": 1}, 32),
        ("Roberta", {"type_vocab_size": 1, "pad_token_id": 0}, 33),
        ("XLMRoberta", {}, 32),
        ("Camembert", {}, 32),
        ("MPNet", {}, 32),
        ("Longformer", {"attention_window": [4, 4]}, 32),
        ("RobertaPreLayerNorm", {}, 32),
        ("Data2VecText", {}, 32),
        ("XLMRobertaXL", {}, 32),
        ("IBert", {}, 32),
        ("Esm", {"position_embedding_type": "absolute"}, 32),
    ],
)
def test_long_texts_have_as_many_tokens_as_the_model_has_positions(kind, more, length):
    made = model(kind, **more)
    processor = Processor(made, words(pad="[UNK]" if made.config.pad_token_id else "[PAD]"))
    batch = processor.collate([{"text": LONG}, {"text": "w1 w2"}])
    assert batch["input_ids"].shape == (2, length)
    with torch.no_grad():
        together, alone = classify(made, model_inputs(batch)), classify(made, processor.collate([{"text": "w1 w2"}]))
        assert torch.isfinite(together).all()
        assert torch.allclose(together[1], alone[0], atol=1e-4)
        if processor.texts.fixed:  # one more token has no position
            ids = torch.full((1, length + 1), 9)
            with pytest.raises((IndexError, RuntimeError)):
                classify(made, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.mark.parametrize(("made", "length"), [(gpt2(pad_token_id=0), 34), (bart(), 34), (xlnet(), 102)])
def test_other_kinds_of_positions(made, length):
    row = Processor(made, words())({"text": LONG})
    assert len(row["input_ids"]) == length


def test_a_tokenizer_may_state_a_shorter_limit():
    assert len(Processor(xlnet(), words(model_max_length=20))({"text": LONG})["input_ids"]) == 20
    assert len(Processor(build("bert"), words(model_max_length=20))({"text": LONG})["input_ids"]) == 20


def shared(made):
    """A model whose encoder and decoder use one table, as `resize_token_embeddings` leaves them."""
    made.set_input_embeddings(made.get_input_embeddings())
    return made


T5 = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 32, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    "made",
    [
        xlnet(), model("IBert"), bart(), shared(bart()), model("T5", **T5), shared(model("T5", **T5)),
        model("Longformer", attention_window=[4, 4]),
    ],
)  # fmt: skip
def test_noise_acts_on_the_embeddings_of_every_architecture(made):
    """XLNet embeds token ids with the sequence first, I-BERT returns a scale beside its embeddings, Longformer pads its input."""
    batch = model_inputs(Processor(made, words()).collate([{"text": "w1 w2 w3"}, {"text": "w4"}]))
    with torch.no_grad():
        x, mask = continuous_input(made, batch)
        assert (x.shape[:2], mask.shape[:2]) == (batch["input_ids"].shape, batch["input_ids"].shape)
        logits = classify(made, batch)
        assert torch.allclose(classify(made, batch, replace_by(x)), logits, atol=1e-6)
        assert not torch.allclose(classify(made, batch, replace_by(-x)), logits, atol=1e-6)


# --- tokenizers and pad tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "t5", "albert", "deberta-v2"])
def test_a_tokenizer_without_words_is_refused(tmp_path, kind):
    transformers.CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    empty = transformers.AutoTokenizer.from_pretrained(tmp_path)  # transformers makes one of special tokens alone
    with pytest.raises(ValueError, match=r"the tokenizer knows no words, only .* special tokens"):
        check_tokenizer(empty, 30522)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="8 tokens beyond the model's vocabulary of 20: it belongs to another model"):
        Processor(model("Bert", vocab_size=20), words())
    for wrong in ("bert-base-uncased", words().backend_tokenizer, image_processor()):
        with pytest.raises(ValueError, match=r"`processing_class` is a .*, no tokenizer of transformers"):
            Processor(build("bert"), wrong)


def test_an_added_token_is_refused_where_it_occurs():
    longer = words()
    longer.add_tokens(["new"])
    processor = Processor(build("bert"), longer)
    assert processor({"text": "w1"})["input_ids"].tolist() == [2, 5, 3]
    with pytest.raises(
        ValueError, match=r"column 'text' gives token id 28, and the model's vocabulary has ids 0\.\.27"
    ):
        processor({"text": "w1 new"})


@pytest.mark.parametrize(
    ("made", "tokens", "match"),
    [
        (
            gpt2(),
            words(pad=None),
            "`tokenizer.pad_token = tokenizer.eos_token` and then `model.config.pad_token_id = tok",
        ),
        (gpt2(), words(), "`pad_token_id` is None. Set it: `model.config.pad_token_id = tokenizer.pad_token_id`"),
        (gpt2(), None, "`pad_token_id` is None"),
        (gpt2(pad_token_id=9), words(), r"`pad_token_id` 0, and the model's `pad_token_id` \(9\) is no special token"),
        (
            model("Bert", pad_token_id=None),
            words(pad=None),
            r"has no `pad_token`, and the model's `pad_token_id` \(None\)",
        ),
        (gpt2(pad_token_id=27), words(pad="<new>"), r"`pad_token` '<new>' has id 28.*ids 0\.\.27"),
    ],
)
def test_without_a_common_pad_token_the_mending_line_is_given(made, tokens, match):
    with pytest.raises(ValueError, match=match):
        Processor(made, tokens)


@pytest.mark.parametrize(
    ("made", "pad", "set_to"),
    [(gpt2(pad_token_id=0), None, "[PAD]"), (gpt2(pad_token_id=3), "[PAD]", "[SEP]"), (build("bert"), None, "[PAD]")],
)
def test_the_pad_token_of_the_model_is_set_and_batches_do_not_change_answers(made, pad, set_to, caplog):
    tokens = words(pad=pad, special=False)
    with caplog.at_level(logging.WARNING, "hf_unlearn.models.text_inputs"):
        processor = Processor(made, tokens)
        Processor(made, tokens)
    (record,) = caplog.records
    assert f"It now pads with '{set_to}', the model's pad token" in record.getMessage()
    rows = [{"text": "w1 w2 w3 w4"}, {"text": "w5"}]
    with torch.no_grad():
        together = classify(made.eval(), processor.collate(rows))
        alone = classify(made, processor.collate(rows[1:]))
    assert torch.allclose(together[1], alone[0], atol=1e-5)


def test_an_encoder_keeps_a_pad_token_of_the_tokenizer():
    tokens = words(pad="[UNK]")
    assert Processor(build("bert"), tokens).collate([{"text": "w1"}, {"text": "w1 w2"}])["input_ids"][0, -1] == 1
    assert tokens.pad_token == "[UNK]"


# --- rows that no model can read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "column 'text' holds None, not a text"),
        (7, "column 'text' holds a value of type int, not a text"),
        (["w1", "w2"], "type list"),
        ({"en": "w1"}, "type dict"),
        (b"w1", "type bytes"),
        ("", "column 'text' is empty: the tokenizer makes no token of it"),
        ("  ", "column 'text' is empty"),
    ],
)
def test_a_row_without_a_text_is_refused_with_its_number(value, match):
    processor = Processor(gpt2(pad_token_id=0), words(special=False))
    with pytest.raises(ValueError, match=match):
        processor({"text": value})
    with pytest.raises(ValueError, match=f"`test_dataset`, row 0: .*{match}"):
        processor.check([{"text": value}], "test_dataset")


def test_an_empty_text_is_a_text_where_the_tokenizer_adds_tokens():
    assert Processor(build("bert"), words())({"text": ""})["input_ids"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"input_ids": [2, 28]}, r"token id 28, and the model's vocabulary has ids 0\.\.27"),
        ({"input_ids": [-100, 3]}, "token id -100"),
        ({"input_ids": [5] * 35}, "has 35 tokens, and the model has positions for 34"),
        ({"input_ids": []}, r"shape \(0,\)"),
        ({"input_ids": None}, "column 'input_ids' holds None"),
        ({"input_ids": "2 5 3"}, "column 'input_ids' does not hold a flat list of whole numbers"),
        ({"input_ids": ["2", "5"]}, "column 'input_ids' does not hold a flat list"),
        ({"input_ids": [2, None]}, "column 'input_ids' does not hold a flat list"),
        ({"input_ids": [10**30]}, "column 'input_ids' does not hold a flat list"),
        ({"input_ids": [5, 6], "attention_mask": "11"}, "column 'attention_mask' does not hold a flat list"),
        ({"input_ids": [[5, 6]]}, r"shape \(1, 2\)"),
        ({"input_ids": [5.0]}, "float32 numbers"),
        ({"input_ids": [5, 6], "attention_mask": [0, 0]}, "'attention_mask' is 0 everywhere"),
        ({"input_ids": [5, 6], "attention_mask": [1]}, r"'attention_mask' has shape \(1,\), and 'input_ids' \(2,\)"),
        ({"input_ids": [5, 6], "token_type_ids": [0, 2]}, "'token_type_ids' goes up to 2, the model has 2 types"),
    ],
)
def test_bad_token_ids_are_refused(row, match):
    with pytest.raises(ValueError, match=match):
        Processor(model("Bert"))(row)


def test_a_model_with_relative_positions_takes_longer_rows_of_token_ids():
    made = model("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False)
    row = Processor(made)({"input_ids": [5] * 50})
    with torch.no_grad():
        assert torch.isfinite(classify(made, Processor(made).collate([row]))).all()


def test_end_tokens_are_where_a_model_that_answers_there_expects_them():
    processor = Processor(bart(), words())
    for rows in (
        [{"text": "w1 w2"}, {"text": ""}],
        [{"premise": "w1", "hypothesis": ""}, {"premise": "", "hypothesis": "w2"}],
    ):
        assert torch.isfinite(classify(bart(), processor.collate(rows))).all()
    with pytest.raises(ValueError, match=r"holds the end token \(id 3\)"):
        processor({"text": "w1 [SEP] w2"})
    with pytest.raises(ValueError, match="gives no end token, and the model answers at `eos_token_id` 3"):
        Processor(bart(), words(special=False))({"text": "w1"})
    with pytest.raises(ValueError, match="column 'input_ids' gives no end token"):
        Processor(bart())({"input_ids": [5, 6]})


def test_a_tokenizer_that_gives_no_token_ids_is_refused():
    with pytest.raises(ValueError, match=r"`model_input_names` lack 'input_ids'.*tokenizer_config\.json"):
        Processor(build("bert"), words(model_input_names=[]))

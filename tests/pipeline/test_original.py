"""Training an original from a configuration, with a processor that goes with its data."""

import datasets
import pytest
from transformers import AutoModelForImageClassification, BertConfig, ViTConfig

from hf_unlearn.pipeline.original import build_processor, train_original
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.data import SIZE, image_data, text_data
from tests.support.models import build
from tests.support.runs import arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feature", "names"),
    [
        (datasets.ClassLabel(names=["cat", "dog", "emu", "fox"]), "cat dog emu fox"),
        (datasets.Value("int64"), "0 1 2 3"),
    ],
)
def test_an_original_is_trained_and_saved_with_the_names_of_its_classes(tmp_path, feature, names):
    rows = image_data(32).cast_column("label", feature)
    build("vit").config.to_json_file(tmp_path / "config.json")
    run = RunArguments(str(tmp_path / "original"), "d", model_config=str(tmp_path / "config.json"), train_epochs=1)
    train_original(run, arguments(tmp_path / "out"), rows)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "original")
    assert model.config.id2label == dict(enumerate(names.split()))
    assert (tmp_path / "original" / "preprocessor_config.json").is_file()
    assert not (tmp_path / "out" / "original-training").exists()


def test_an_image_processor_has_the_size_and_the_scale_of_the_configuration():
    processor = build_processor(ViTConfig(image_size=SIZE), image_data(4))
    assert (processor.size["height"], tuple(processor.image_mean)) == (SIZE, (0.5, 0.5, 0.5))
    assert build_processor(ViTConfig(image_size=8, image_std=[0.2] * 3), image_data(4)).image_std == (0.2, 0.2, 0.2)


def test_a_tokenizer_knows_the_words_of_the_training_texts_and_no_others():
    rows = text_data(40)
    tokenizer = build_processor(BertConfig(vocab_size=300, max_position_embeddings=32), rows)
    ids = tokenizer(rows[0]["text"]).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", *rows[0]["text"].split(), "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("ß").input_ids) == ["[CLS]", "[UNK]", "[SEP]"]
    assert tokenizer.model_max_length == 32
    with pytest.raises(ValueError, match="`text_column` is missing: no text column among text, label, group"):
        build_processor(BertConfig(), rows, text_column="body")


def test_a_tokenizer_for_pairs_learns_both_columns_and_separates_them():
    rows = datasets.Dataset.from_dict({"premise": ["a cat", "a dog"], "hypothesis": ["an emu", "a fox"]})
    tokenizer = build_processor(BertConfig(vocab_size=300), rows)
    ids = tokenizer("cat", "emu").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "cat", "[SEP]", "emu", "[SEP]"]
    assert build_processor(BertConfig(vocab_size=300), rows, "premise")("emu").input_ids[1] == tokenizer.unk_token_id

"""Rows become the inputs that a processing class of transformers makes, and bad rows are refused."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_unlearn.models.forward import (
    classify,
    model_inputs,
)
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.processor import Processor
from tests.support.data import (
    CLASSES,
    SIZE,
    TEXT,
    WORDS,
    image_data,
    image_processor,
    pixel_data,
    text_data,
    tokenizer,
)
from tests.support.models import build, trained


def test_image_rows_are_what_the_image_processor_gives():
    data, processor = image_data(6), Processor(build("vit"), image_processor())
    batch = processor.collate(list(data))
    expected = image_processor()(data["image"][:], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == data["label"][:]
    assert set(batch) == {"pixel_values", "labels"}
    assert torch.equal(processor.collate([processor(r) for r in data])["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_other_image_modes_become_rgb(mode):
    image = Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)).convert(mode)
    row = Processor(build("vit"), image_processor())({"image": image, "label": 0})
    assert row["pixel_values"].shape == (3, SIZE, SIZE)
    expected = image_processor()(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(row["pixel_values"], expected)


def test_ready_pixels_pass_unchanged_in_any_format():
    plain, processor = pixel_data(4), Processor(build("vit"))
    expected = np.asarray(plain.with_format("numpy")["pixel_values"][:], dtype=np.float32)
    for data in (plain, plain.with_format("torch"), plain.with_format("numpy")):
        assert torch.equal(processor.collate(list(data))["pixel_values"], torch.from_numpy(expected))


@pytest.mark.parametrize("arch", TEXT)
def test_text_rows_are_what_the_tokenizer_gives(arch):
    data, processor = text_data(9), Processor(build(arch), tokenizer())
    batch = processor.collate(list(data))
    expected = tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    assert len(set(expected["attention_mask"].sum(1).tolist())) > 1
    for key in ("input_ids", "attention_mask"):
        assert torch.equal(batch[key], expected[key])
    assert batch["labels"].tolist() == data["label"][:]


def test_ready_token_ids_need_no_tokenizer():
    rows = [
        {"input_ids": [2, 5, 6, 3], "attention_mask": [1] * 4, "label": 1},
        {"input_ids": [2, 3], "attention_mask": [1, 1], "label": 0},
    ]
    batch = Processor(build("bert")).collate(rows)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3], [2, 3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_ready_token_ids_without_a_mask_do_not_attend_to_padding():
    model = trained("bert")
    processor = Processor(model)
    rows = [{"input_ids": [2, 5, 6, 7, 8, 3]}, {"input_ids": [2, 9, 3]}]
    with torch.no_grad():
        together = classify(model, processor.collate(rows))[1]
        alone = classify(model, processor.collate(rows[1:]))[0]
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("arch", TEXT)
def test_long_texts_are_cut_to_what_the_model_can_read(arch):
    model = build(arch)
    processor = Processor(model, tokenizer())
    row = processor({"text": " ".join(WORDS * 5), "label": 0})
    limit = 31 if arch == "roberta" else 32  # its padding token is 0, so its positions start at 1
    assert len(row["input_ids"]) == limit
    assert torch.isfinite(classify(model, model_inputs(processor.collate([row])))).all()


def test_own_column_names():
    data = image_data(3).rename_columns({"image": "photo", "label": "kind"})
    batch = Processor(build("vit"), image_processor(), image_column="photo", label_column="kind").collate(list(data))
    assert batch["labels"].tolist() == [0, 1, 2]
    data = text_data(3).rename_columns({"text": "review", "label": "stars"})
    batch = Processor(build("bert"), tokenizer(), text_column="review", label_column="stars").collate(list(data))
    assert batch["labels"].tolist() == [0, 1, 2]


def test_rows_without_labels_give_a_batch_without_labels():
    processor = Processor(build("vit"))
    data = pixel_data(4).remove_columns("label")
    assert set(processor.collate(list(data))) == {"pixel_values"}
    logits, labels = predict(build("vit"), data, processor)
    assert logits.shape == (4, CLASSES)
    assert labels is None


def test_tokenizer_outputs_that_the_model_cannot_read_are_dropped():
    names = ["input_ids", "token_type_ids", "attention_mask"]
    general = type(tokenizer())(
        tokenizer_object=tokenizer().backend_tokenizer, pad_token="[PAD]", model_input_names=names
    )
    assert "token_type_ids" in general("w1 w2")
    model = trained("distilbert")
    batch = Processor(model, general).collate(list(text_data(4)))
    assert torch.isfinite(classify(model, model_inputs(batch))).all()


@pytest.mark.parametrize(
    ("arch", "row", "match"),
    [
        ("vit", {"photo": 1, "label": 0}, "no image column among photo, label.*`image_column`"),
        ("bert", {"review": "w1", "label": 0}, "no text column among review, label.*`text_column`"),
        ("vit", {"pixel_values": np.zeros((3, 8, 8)), "label": 0}, "8×8 pixels.*16×16"),
        ("vit", {"pixel_values": np.zeros((SIZE, SIZE)), "label": 0}, r"shape \(16, 16\)"),
        ("vit", {"pixel_values": np.zeros((3, SIZE, SIZE)), "label": 4}, "a label in column 'label'.*4 classes"),
        ("vit", {"pixel_values": np.zeros((3, SIZE, SIZE)), "label": "cat"}, "a label in column 'label'.*`label2id`"),
        ("vit", {"pixel_values": np.full((3, SIZE, SIZE), np.inf), "label": 0}, "NaN or infinite"),
        ("bert", {"text": "w1", "label": 0}, "`processing_class`"),
    ],
)
def test_bad_rows_say_what_is_wrong(arch, row, match):
    with pytest.raises(ValueError, match=match):
        Processor(build(arch))(row)


def test_check_names_the_argument():
    with pytest.raises(ValueError, match="`eval_dataset` is empty"):
        Processor(build("vit")).check(datasets.Dataset.from_dict({"pixel_values": []}), "eval_dataset")
    with pytest.raises(ValueError, match="`eval_dataset`: no image column"):
        Processor(build("vit")).check(text_data(2), "eval_dataset")


@pytest.mark.parametrize(
    "labels", [[0, 2, 2, None, 2], ["c0", "c2", "c2", None, "c2"], [0.0, 2.0, 2.0, float("nan"), 2.0]]
)
def test_rows_of_each_class_are_counted_without_those_that_have_no_label(labels):
    model = build("vit")
    model.config.label2id = {f"c{i}": i for i in range(CLASSES)}
    model.config.id2label = {i: f"c{i}" for i in range(CLASSES)}
    processor = Processor(model, image_processor())
    rows = image_data(5).remove_columns("label").add_column("label", labels)
    assert processor.class_counts(rows).tolist() == [1, 0, 3, 0]
    assert processor.class_counts(rows.select_columns(["image"])) is None
    assert processor.class_counts(rows.to_iterable_dataset()) is None

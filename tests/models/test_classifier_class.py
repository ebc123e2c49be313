"""Which class of transformers loads a classifier."""

import pytest
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    PerceiverConfig,
    WhisperConfig,
)

from hf_unlearn.models.classifier_class import classifier_class, is_image_dataset
from tests.support.data import image_data, pixel_data, text_data
from tests.support.models import build


def test_columns_say_whether_rows_are_images():
    assert [is_image_dataset(d) for d in (image_data(2), pixel_data(2), text_data(2))] == [True, True, False]
    assert is_image_dataset(image_data(2).rename_column("image", "photo"))


def test_an_architecture_with_one_classifier_is_loaded_as_this():
    assert classifier_class(build("vit").config, text_data(2)) is AutoModelForImageClassification
    assert classifier_class(build("bert").config, image_data(2)) is AutoModelForSequenceClassification


@pytest.mark.parametrize(
    ("name", "rows", "kind"),
    [
        ("PerceiverForSequenceClassification", image_data, AutoModelForSequenceClassification),
        ("PerceiverForImageClassificationLearned", text_data, AutoModelForImageClassification),
        (None, image_data, AutoModelForImageClassification),
        (None, text_data, AutoModelForSequenceClassification),
    ],
)
def test_where_an_architecture_reads_both_its_class_decides_and_then_the_columns(name, rows, kind):
    assert classifier_class(PerceiverConfig(architectures=name and [name]), rows(2)) is kind


def test_models_for_other_tasks_are_refused():
    with pytest.raises(ValueError, match="'whisper' is no classifier of images or texts"):
        classifier_class(WhisperConfig())
    with pytest.raises(ValueError, match="a class for each token"):
        classifier_class(BertConfig(architectures=["BertForTokenClassification"]))

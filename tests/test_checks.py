"""Missing labels: an error where they are read, nothing where they are not."""

import datasets
import pytest

from hf_unlearn import FeatureInformation, JiT, MarginalInformation
from hf_unlearn.models.processor import Processor
from hf_unlearn.training.checks import check_data
from tests.support.data import CLASSES, class_split, pixel_data
from tests.support.models import trained
from tests.support.runs import trainer_for


def without_label(data, row=3, value=None):
    labels = [value if i == row else v for i, v in enumerate(data["label"])]
    return data.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize("method", [MarginalInformation(), FeatureInformation(attribute="group")])
def test_rows_without_a_label_are_refused_where_labels_are_read(method):
    split = class_split("vit")
    forget = split.forget if method.needs_forget else None
    with pytest.raises(ValueError, match="`retain_dataset`: 1 of 48 labels in column 'label' are missing"):
        check_data(method, Processor(trained("vit")), forget, without_label(split.retain))


def test_rows_without_a_label_are_no_obstacle_where_labels_are_not_read(tmp_path):
    split = class_split("vit")
    split = type(split)(without_label(split.forget), without_label(split.retain), split.forget_indices, split.request)
    trainer = trainer_for("vit", tmp_path, JiT(num_perturbations=2), split=split, forget_kind="auto", max_steps=1)
    assert trainer.args.forget_kind == "class"
    trainer.train()


def test_labels_beside_missing_ones_are_checked_too():
    bad = without_label(without_label(pixel_data(16).cast_column("label", datasets.Value("int64")), 5, CLASSES))
    with pytest.raises(ValueError, match=f"`forget_dataset`: 1 labels .* such as {CLASSES}"):
        check_data(JiT(), Processor(trained("vit")), bad, None)


def test_class_names_in_another_order_than_the_models_are_refused():
    model = trained("vit")
    model.config.label2id = {name: i for i, name in enumerate("abcd")}
    data = pixel_data(16).cast_column("label", datasets.ClassLabel(names=["a", "c", "b", "d"]))
    with pytest.raises(ValueError, match=r"`forget_dataset`.*'c' is 1 there and 2 here.*align_labels_with_mapping"):
        check_data(JiT(), Processor(model), data, None)
    check_data(JiT(), Processor(model), data.align_labels_with_mapping(model.config.label2id, "label"), None)
    model.config.label2id = {f"LABEL_{i}": i for i in range(CLASSES)}
    check_data(JiT(), Processor(model), data, None)

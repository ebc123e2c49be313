"""Labels keep their meaning: a data set's class names are matched with those of the head."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_unlearn import ForgetRequest
from hf_unlearn.data.class_names import (
    align_labels,
    check_numbers,
    fold,
    is_numbering,
    names_of_classes,
    numbers_of_names,
)

PETS = {"ant": 0, "bee": 1, "cat": 2, "dog": 3}


def named(labels, names, **more):
    data = datasets.Dataset.from_dict({"label": labels, "row": list(range(len(labels))), **more})
    return data.cast_column("label", datasets.ClassLabel(names=names))


def aligned(data, label2id=PETS, classes=4):
    return align_labels(data, "label", label2id, classes, "retain_dataset")


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["ant", "bee", "dog"], [0, 1, 2, 2], [0, 1, 3, 3]),  # a folder without cats
        (["dog", "cat", "bee", "ant"], [0, 1, 2, 3], [3, 2, 1, 0]),
        (["dog"], [0, 0], [3, 3]),
        (["Ant", "BEE", "Dog"], [0, 1, 2], [0, 1, 3]),
        (["ant", "dog"], [0, None, 1, -1], [0, None, 3, -1]),  # missing labels stay what they are
        (["ant", "cow", "dog"], [0, 2, 2], [0, 3, 3]),  # no row is a cow
    ],
)
def test_labels_get_the_heads_numbers_by_name(names, labels, expected):
    data, said = aligned(named(labels, names))
    assert data["label"][:] == expected
    assert data["row"][:] == list(range(len(labels)))
    assert data.column_names == ["label", "row"]
    assert data.features["label"].names == list(PETS)
    assert "in the model's `label2id`. Labels are matched by name." in said
    assert aligned(data) == (data, None)  # once is enough


@pytest.mark.parametrize(
    ("names", "label2id"),
    [
        (list(PETS), PETS),
        (["ant", "bee", "cat"], PETS),  # a shorter list with the same numbers
        (["0", "1", "2", "3"], PETS),  # `ClassLabel(4)` only repeats the numbers
        (["cold", "hot", "mild", "wet"], {f"LABEL_{i}": i for i in range(4)}),
        (["cold", "hot", "mild", "wet"], {str(i): i for i in range(4)}),
    ],
)
def test_numbers_that_agree_and_names_that_say_nothing_change_nothing(names, label2id):
    data = named([0, 1, 2, 0], names)
    assert aligned(data, label2id) == (data, None)


@pytest.mark.parametrize(
    ("names", "label2id"),
    [(["cold", "hot", "wet"], {f"LABEL_{i}": i for i in range(4)}), (["0", "1", "2"], PETS)],
)
def test_another_number_of_classes_is_said_where_names_cannot_be_matched(names, label2id):
    data = named([0, 1, 2, 0], names)
    same, said = aligned(data, label2id)
    assert same is data
    assert "has 3 classes and the model's head 4" in said
    assert "`model.config.id2label`" in said


def test_digits_that_are_names_are_matched_as_names():
    digits = {str(i): i for i in range(4)}
    assert aligned(named([0, 1, 2], ["0", "1", "3"]), digits)[0]["label"][:] == [0, 1, 3]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            named([0, 1, 1, 2], ["ant", "cow", "dog"]),
            r"not in the model's `label2id`: 'cow' \(2 rows\)\. The model has ant",
        ),
        (named([0, 1], ["neg", "pos"]), r"'neg' \(1 row\), 'pos' \(1 row\)"),
        (named([0, 1], ["Cat", "cat "]), r"'Cat' \(1 row\), 'cat ' \(1 row\)"),  # two classes, so neither is ours
        (datasets.Dataset.from_dict({"label": ["ant", "cow", None] * 2}), r"'cow' \(2 rows\)"),
        (
            datasets.Dataset.from_dict({"label": ["my", "text"] * 2}),
            r"holds 2 different texts in 4 rows, none of which is a class of the model, and the model has 4 classes: ant",
        ),
        (
            datasets.Dataset.from_dict({"label": [f"text {i}" for i in range(9)]}),
            r"9 different texts in 9 rows.*`label_column`",
        ),
        (
            datasets.Dataset.from_dict({"label": [f"user {i % 9}" for i in range(900)]}),
            r"9 different texts in 900 rows",
        ),
        (datasets.Dataset.from_dict({"label": [[0, 1], [1, 0]]}), r"column 'label' holds lists.*multi-label"),
        (datasets.Dataset.from_dict({"label": [{"a": 0}]}), r"column 'label' holds dict, and a label is"),
        (datasets.Dataset.from_dict({"label": [np.datetime64("2020-01-01", "us")]}), r"column 'label' holds timestamp"),
    ],
)
def test_what_the_head_does_not_know_is_refused(data, match):
    with pytest.raises(ValueError, match=rf"`retain_dataset`: .*{match}"):
        aligned(data)


def test_texts_become_numbers():
    data, said = aligned(datasets.Dataset.from_dict({"label": ["dog", None, "Bee", "2"]}))
    assert (data["label"][:], said) == ([3, None, 1, 2], None)


def test_views_formats_and_images_stay_as_they_are():
    pictures = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "dog"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 3}, features=features)
    view = data.select([5, 0, 3]).with_format("numpy", columns=["label"])
    found, _ = aligned(view)
    assert found["label"][:].tolist() == [3, 0, 3]
    assert found.format == view.format
    plain = found.with_format(None)
    assert [np.asarray(row["image"])[0, 0, 0] for row in plain] == [5, 0, 3]
    seen = aligned(data.with_transform(lambda batch: {"twice": [2 * y for y in batch["label"]]}))[0]
    assert seen[:]["twice"] == [0, 6] * 3
    assert ForgetRequest(label="dog").split(found).forget_indices.tolist() == [0, 2]


def test_streams_are_renumbered_as_they_come():
    stream = named([0, 1, 1], ["ant", "dog"]).to_iterable_dataset()
    found, said = aligned(stream)
    assert [row["label"] for row in found] == [0, 3, 3]
    assert "'dog' is 1 there" in said
    assert found.features["label"].names == list(PETS)
    with pytest.raises(ValueError, match="'cow'"):
        list(aligned(named([0, 1], ["dog", "cow"]).to_iterable_dataset())[0])


def test_rows_without_named_columns_come_back():
    rows = [{"label": 1}]
    assert aligned(rows) == (rows, None)
    numbers = datasets.Dataset.from_dict({"label": [1.0, 0.0]})
    assert aligned(numbers) == (numbers, None)


@pytest.mark.parametrize("given", ["1", 1, "id:1", ["dog", 1]])
def test_a_number_that_is_another_class_to_the_model_is_refused(given):
    data = named([0, 1, 0], ["ant", "dog"])
    with pytest.raises(
        ValueError, match=r"`forget_class=.*1'?` is 'dog' in the data set and 'bee' in the model. Write the name"
    ):
        check_numbers(given, data, "label", PETS, "forget_class")
    for fine in ("dog", "name:dog", 0, "id:0", None):
        check_numbers(fine, data, "label", PETS, "forget_class")
    check_numbers(1, data, "label", {"LABEL_0": 0, "LABEL_1": 1}, "forget_class")
    check_numbers(1, datasets.Dataset.from_dict({"label": [0, 1]}), "label", PETS, "forget_class")


def test_spellings_of_a_name():
    assert fold("Sweet_Pepper") == fold("sweet  pepper") == fold("SWEET-PEPPER ")
    assert numbers_of_names(["B_c", "b c", "x"], {"b c": 1, "X": 0}) == [None, 1, 0]
    assert numbers_of_names(["B_C"], {"b c": 1, "b-c": 0}) == [None]
    assert is_numbering([(0, "LABEL_0"), (1, "1"), (2, "class 2")])
    assert not is_numbering([(0, "1"), (1, "0")])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0, 2], "0 1 2"), (["b", "a"], "a b"), ([True, False], "False True"), ([1.0, 0.0], "0.0 1.0")],
)
def test_names_of_classes_that_a_new_model_learns(labels, expected):
    assert names_of_classes(datasets.Dataset.from_dict({"label": labels}), "label") == expected.split()


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([1, 2, 3], "3 different numbers that are not 0 to 2.*class_encode_column"),
        ([0.5, 1.0], "no class numbers"),
        (["a", None], "empty in some rows"),
        ([0.0, float("nan")], "empty in some rows"),
        ([[0], [1]], "holds lists"),
    ],
)
def test_columns_that_no_model_can_learn_are_refused(labels, match):
    with pytest.raises(ValueError, match=f"`label_column.*{match}"):
        names_of_classes(datasets.Dataset.from_dict({"label": labels}), "label")

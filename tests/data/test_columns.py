from datetime import date

import datasets
import numpy as np
import pytest

from hf_unlearn import ForgetRequest
from hf_unlearn.data.columns import (
    arrow_column,
    class_ids,
    find_label_column,
    flat_column,
    other_kind,
    read_groups,
    read_labels,
    read_strata,
)


@pytest.fixture
def numbered():
    """Eight rows of four classes whose names are ids of others."""
    features = datasets.Features({"label": datasets.ClassLabel(names=["3", "2", "1", "x"])})
    return datasets.Dataset.from_dict({"label": [0, 1, 2, 3] * 2}, features=features)


@pytest.mark.parametrize(
    ("label", "expected", "words"),
    [(3, 3, "class x"), ("id:3", 3, "class x"), ("name:3", 0, "class 3"), ("x", 3, "class x"), ("0", 0, "class 3")],
)
def test_a_number_is_an_id_or_a_name_as_it_is_written(numbered, label, expected, words):
    request = ForgetRequest(label=label)
    assert set(request.split(numbered).forget["label"]) == {expected}
    assert request.describe(["3", "2", "1", "x"]) == words


def test_a_name_is_one_in_a_column_of_texts_too():
    rows = datasets.Dataset.from_dict(
        {"label": ["cat", "7", "name:cat", "id:7"] * 2, "pet": ["cat", "7", "dog", "eel"] * 2}
    )
    for label, expected in (("name:cat", "cat"), ("name:7", "7"), ("cat", "cat"), ("7", "7")):
        assert set(ForgetRequest(label=label, label_column="pet").split(rows).forget["pet"]) == {expected}
    for label in ("name:cat", "id:7"):  # what is called so goes before
        assert set(ForgetRequest(label=label).split(rows).forget["label"]) == {label}
    for label in ("name:cow", "id:cat", "id:7", 7):
        with pytest.raises(ValueError, match=r"is no class of the data set. Its column 'pet' holds 4 different values"):
            ForgetRequest(label=label, label_column="pet").split(rows)


def test_a_number_that_may_be_a_name_or_an_id_is_refused(numbered):
    with pytest.raises(
        ValueError, match=r"`label='3'` is the name of class 0, and the id of another.*'x'.*'name:3' or 'id:3'"
    ):
        ForgetRequest(label="3").split(numbered)
    same = numbered.cast_column("label", datasets.ClassLabel(names=["0", "1", "2", "3"]))
    assert set(ForgetRequest(label=["3", 1]).split(same).forget["label"]) == {1, 3}


@pytest.mark.parametrize(
    ("labels", "spellings"),
    [
        ([True, False, True, False], [True, "True", "true", "1", 1]),
        ([1.0, 0.0, 1.0, 0.0], [1.0, "1.0", "1", 1, "id:1", np.float32(1)]),
        ([1, 0, 1, 0], [1, "1", "1.0", 1.0, "id:1", np.int8(1)]),
        (["1", "b", "1", "b"], ["1", "name:1"]),
        ([1.0, None, 1.0, float("nan")], ["1.0", 1]),
        ([2.5, 0.0, 2.5, 0.0], ["2.5", 2.5]),
        ([-1, 0, -1, 0], ["-1", -1]),
        ([date(2020, month, 1) for month in (2, 1, 2, 1)], ["2020-02-01"]),
        (["spam", None, "spam", "ham"], ["spam"]),
    ],
)
def test_every_value_is_accepted_in_each_form_and_errors_only_count_them(labels, spellings):
    rows = datasets.Dataset.from_dict({"label": labels})
    for label in spellings:
        assert ForgetRequest(label=label).split(rows).forget_indices.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"`label='nine'` is no class of the data set\. It(s| has)") as error:
        ForgetRequest(label="nine").split(rows)
    assert not {"spam", "2.5", "2020"} & set(str(error.value).replace(".", " ").split())


def test_several_labels_in_a_row_are_refused():
    rows = datasets.Dataset.from_dict({"tags": [[0, 1], [1, 0]]})
    with pytest.raises(ValueError, match=r"`label_column='tags'` holds several values in each row \(multi-label\)"):
        ForgetRequest(label=1, label_column="tags").split(rows)


def test_labels_and_columns_follow_the_index_mapping():
    data = datasets.Dataset.from_dict({"labels": [5, 7, 5, 9], "x": ["a", "b", "c", "d"]}).select([3, 1])
    assert find_label_column(data) == "labels"
    assert find_label_column(data, "x") == "x"
    assert find_label_column(iter([{"a": 1}])) is None
    assert read_labels(data, "labels").tolist() == [9, 7]
    assert arrow_column(data, "x", "column").to_pylist() == ["d", "b"]
    with pytest.raises(ValueError, match=r"`label_column='label'` is not a column of the data set; it has labels, x\."):
        read_labels(data)


def test_strata_are_one_number_for_each_pair_of_label_and_group():
    labels, groups = np.random.default_rng(0).integers(0, 3, 60), np.random.default_rng(1).integers(0, 2, 60)
    data = datasets.Dataset.from_dict({"label": labels * 10, "group": groups})
    numbers, names = read_groups(data, "group")
    assert (numbers.tolist(), names) == (groups.tolist(), ["0", "1"])
    strata = read_strata(data, numbers)
    pairs = list(zip(labels.tolist(), groups.tolist(), strict=True))
    for i in range(60):
        assert [s == strata[i] for s in strata] == [pair == pairs[i] for pair in pairs]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["a"] * 40, "has one value only"),
        (["a", "b", None] * 20, "has 20 missing values"),
        ([1.0, float("nan")] * 20, "has 20 missing values"),
        (list(range(40)), "has 40 different values in 40 rows, so it is no group"),
    ],
)
def test_columns_that_form_no_groups_are_refused(values, match):
    with pytest.raises(ValueError, match=f"`attribute='age'` {match}"):
        read_groups(datasets.Dataset.from_dict({"age": values}), "age")


def test_groups_need_a_column_and_no_stream():
    data = datasets.Dataset.from_dict({"a": [0, 1] * 20})
    with pytest.raises(ValueError, match="`attribute` is missing"):
        read_groups(data, None)
    with pytest.raises(ValueError, match="which a stream does not allow"):
        read_groups(data.to_iterable_dataset(), "a")


@pytest.mark.parametrize("column", ["text", "user", "number"])
def test_values_of_a_column_that_names_no_classes_are_counted_and_not_quoted(column):
    values = {"text": ["my secret", "yours", "his"], "user": ["u-secret", "u2", "u3"], "number": [90210, 90211, 90212]}
    data = datasets.Dataset.from_dict(values)
    with pytest.raises(ValueError, match=f"'{column}' holds 3 different values.*another `label_column`") as error:
        class_ids(data, "cat", column)
    assert not any(str(value) in str(error.value) for value in values[column])


def test_a_misspelt_class_or_column_is_answered_with_the_nearest():
    names = datasets.ClassLabel(names=["cat", "horse"])
    data = datasets.Dataset.from_dict({"label": [0, 1]}, features=datasets.Features({"label": names}))
    with pytest.raises(ValueError, match=r"It has: cat, horse. Did you mean `horse`\?"):
        class_ids(data, "hors")
    with pytest.raises(ValueError, match=r"it has label. Did you mean `label`\?"):
        class_ids(data, "cat", "lable")
    with pytest.raises(ValueError, match="It has: 0 to 1"):
        class_ids(datasets.Dataset.from_dict({"label": [0, 1]}), 5)


@pytest.mark.parametrize("values", [[["a"], ["b"]], [{"x": 1}, {"x": 2}]], ids=["lists", "structures"])
def test_a_column_of_lists_or_structures_selects_no_rows(values):
    data = datasets.Dataset.from_dict({"user": values})
    with pytest.raises(ValueError, match=r"`column='user'` is a column of lists or structures.*Make them texts"):
        flat_column(data, "user", "column")
    with pytest.raises(ValueError, match="`column='user'`"):
        ForgetRequest(column="user", values=["a"]).split(data)
    with pytest.raises(ValueError, match="`attribute='user'`"):
        read_groups(data, "user")


def test_values_of_several_kinds_are_named_by_the_first_row_of_another_kind(tmp_path):
    assert other_kind({"a": [None, 1, 2, "x", 3]}, "a") == 3
    assert other_kind({"a": [1, None]}, "a") == 0
    file = tmp_path / "rows.jsonl"
    file.write_text('{"user": "a"}\n{"user": "b"}\n{"user": 7}\n')
    data = datasets.Dataset.from_json(str(file), cache_dir=str(tmp_path))
    if type(data.features["user"]).__name__ != "Json":
        pytest.skip("this version of datasets reads such a column in another way")
    with pytest.raises(ValueError, match=r"`column='user'` is a column of values of several kinds \(see row 2\)"):
        ForgetRequest(column="user", values=["a"]).split(data)


@pytest.mark.parametrize("written", ["Café", "café ", "cafe\u0301"])
def test_a_class_that_is_written_otherwise_in_its_column_is_found_and_not_taken_for_another(written):
    data = datasets.Dataset.from_dict({"label": [written, "tea"]})
    with pytest.raises(ValueError, match="with other capitals, spaces or accents"):
        class_ids(data, "café")


def test_pictures_without_class_folders_are_told_apart_from_a_misspelt_column():
    data = datasets.Dataset.from_dict({"image": ["a.png"]})
    with pytest.raises(ValueError, match="a folder for each class"):
        class_ids(data, "cat")

import datasets
import pytest

from hf_unlearn import ForgetRequest


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
        with pytest.raises(ValueError, match=r"is no class of the data set. It has: 7, cat, dog, eel"):
            ForgetRequest(label=label, label_column="pet").split(rows)


def test_a_number_that_may_be_a_name_or_an_id_is_refused(numbered):
    with pytest.raises(
        ValueError, match=r"`label='3'` is the name of class 0, and the id of another.*'x'.*'name:3' or 'id:3'"
    ):
        ForgetRequest(label="3").split(numbered)
    same = numbered.cast_column("label", datasets.ClassLabel(names=["0", "1", "2", "3"]))
    assert set(ForgetRequest(label=["3", 1]).split(same).forget["label"]) == {1, 3}

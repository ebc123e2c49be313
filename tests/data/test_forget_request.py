import time
import traceback

import datasets
import numpy as np
import pytest

from hf_unlearn import ForgetRequest

NAMES = ["cat", "dog", "horse"]


@pytest.fixture
def pets():
    """30 rows: class i % 3, user i % 5, id 100 + i."""
    n = 30
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=NAMES),
            "user": datasets.Value("string"),
            "id": datasets.Value("int64"),
            "age": datasets.Value("float32"),
        }
    )
    rows = {
        "label": [i % 3 for i in range(n)],
        "user": [f"u{i % 5}" for i in range(n)],
        "id": [100 + i for i in range(n)],
        "age": [float(i) for i in range(n)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def brute_force(dataset, wanted):
    return [i for i, row in enumerate(dataset) if wanted(row)]


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (ForgetRequest(label="dog"), lambda r: r["label"] == 1),
        (ForgetRequest(label=1), lambda r: r["label"] == 1),
        (ForgetRequest(label="1"), lambda r: r["label"] == 1),
        (ForgetRequest(label=["dog", 2]), lambda r: r["label"] in (1, 2)),
        (ForgetRequest(column="user", values=["u3", "u4"]), lambda r: r["user"] in ("u3", "u4")),
        (ForgetRequest(column="id", values=[100, 129]), lambda r: r["id"] in (100, 129)),
        (ForgetRequest(column="id", values=["105"]), lambda r: r["id"] == 105),
        (ForgetRequest(indices=[4, 0, 4]), lambda r: r["id"] in (100, 104)),
        (ForgetRequest(label=np.int64(1)), lambda r: r["label"] == 1),
        (ForgetRequest(column="id", values=np.array([100, 129])), lambda r: r["id"] in (100, 129)),
        (ForgetRequest(indices=np.array([4.0, 0.0])), lambda r: r["id"] in (100, 104)),
        (
            ForgetRequest(predicate=lambda r: r["age"] > 20 and r["user"] == "u1"),
            lambda r: r["age"] > 20 and r["user"] == "u1",
        ),
        (ForgetRequest(label=0, column="user", values=["u0"]), lambda r: r["label"] == 0 and r["user"] == "u0"),
        (
            ForgetRequest(label=0) | ForgetRequest(column="user", values=["u0"]),
            lambda r: r["label"] == 0 or r["user"] == "u0",
        ),
        (
            ForgetRequest(label=0) & ForgetRequest(column="user", values=["u0"]),
            lambda r: r["label"] == 0 and r["user"] == "u0",
        ),
        (
            (ForgetRequest(label=0) | ForgetRequest(label=1)) & ForgetRequest(indices=range(10)),
            lambda r: r["label"] < 2 and r["id"] < 110,
        ),
        (
            ForgetRequest(label=0) | ForgetRequest(label=1) & ForgetRequest(indices=range(10)),
            lambda r: r["label"] == 0 or (r["label"] == 1 and r["id"] < 110),
        ),
    ],
)
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "shuffled and selected"])
def test_criteria_select_what_brute_force_selects(pets, request_, wanted, mapped):
    if mapped:  # `indices` count rows of the data set that is split, so criteria by id are compared on the mapped one
        pets = pets.shuffle(seed=3)
        pets = pets.select(sorted(range(30), key=lambda i: pets[i]["id"]))
    split = request_.split(pets)
    expected = brute_force(pets, wanted)
    assert split.forget_indices.tolist() == expected
    assert split.forget["id"][:] == [pets[i]["id"] for i in expected]
    assert split.retain["id"][:] == [row["id"] for i, row in enumerate(pets) if i not in expected]


def test_criteria_follow_an_index_mapping(pets):
    mapped = pets.shuffle(seed=1).select(range(3, 20))
    split = ForgetRequest(label="cat").split(mapped)
    assert split.forget_indices.tolist() == brute_force(mapped, lambda r: r["label"] == 0)
    assert set(split.forget["id"]) | set(split.retain["id"]) == set(mapped["id"])
    by_row = ForgetRequest(indices=[0, 5]).split(mapped)
    assert by_row.forget["id"][:] == [mapped[0]["id"], mapped[5]["id"]]


def test_formatted_data_set_is_split_alike(pets):
    plain = ForgetRequest(label="cat").split(pets).forget_indices
    for formatted in (pets.with_format("torch"), pets.with_format("numpy", columns=["id"])):
        assert ForgetRequest(label="cat").split(formatted).forget_indices.tolist() == plain.tolist()


def test_ids_file_holds_values_of_a_column_or_row_numbers(pets, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("u1\n\n  u2 \n")
    split = ForgetRequest(column="user", ids_file=file).split(pets)
    assert set(split.forget["user"]) == {"u1", "u2"}
    assert len(split.forget) == 12
    file.write_text("100\n111\n")
    assert ForgetRequest(column="id", ids_file=str(file)).split(pets).forget_indices.tolist() == [0, 11]
    file.write_text("3\n1\n")
    assert ForgetRequest(ids_file=file).split(pets).forget_indices.tolist() == [1, 3]


def test_ids_file_may_start_with_a_byte_order_mark(pets, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("u1\nu4\n", encoding="utf-8-sig")
    assert set(ForgetRequest(column="user", ids_file=file).split(pets).forget["user"]) == {"u1", "u4"}


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        (np.arange(30) < 2, r"row numbers, not true or false\. Pass `np.flatnonzero\(mask\)`"),
        ([True, False], "row numbers, not true or false"),
        ([0.0, 1.5], "whole row numbers"),
    ],
)
def test_a_mask_and_fractions_are_no_row_numbers(pets, indices, match):
    with pytest.raises(ValueError, match=f"`indices` must hold {match}"):
        ForgetRequest(indices=indices).split(pets)


@pytest.mark.parametrize("number", ["1_0", "1.5", "nan", "x", "9" * 30, "-" + "9" * 30])
def test_what_is_no_row_number_is_refused_and_not_printed(pets, tmp_path, number):
    (tmp_path / "ids.txt").write_text(f"1\n{number}\n")
    with pytest.raises(ValueError, match=r"`ids_file`.* row numbers") as error:
        ForgetRequest(ids_file=tmp_path / "ids.txt").split(pets)
    assert number not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_ids_file_may_be_in_any_encoding_that_its_mark_names(pets, tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "ids.txt").write_bytes(f"{mark}u1\r\nu4\r\n".encode(encoding))
    forget = ForgetRequest(column="user", ids_file=tmp_path / "ids.txt").split(pets).forget
    assert set(forget["user"]) == {"u1", "u4"}


@pytest.mark.parametrize("raw", ["ü1".encode("latin-1"), "u1".encode("utf-16-be"), b"\xff\xfeu"])
def test_ids_file_in_another_encoding_is_refused(pets, tmp_path, raw):
    (tmp_path / "ids.txt").write_bytes(raw)
    with pytest.raises(ValueError, match=r"`ids_file`: .*Save it with the encoding UTF-8"):
        ForgetRequest(column="user", ids_file=tmp_path / "ids.txt").split(pets)


def test_ids_file_may_lie_in_the_home_folder_and_is_no_folder(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ids.txt").write_text("u1")
    assert set(ForgetRequest(column="user", ids_file="~/ids.txt").split(pets).forget["user"]) == {"u1"}
    with pytest.raises(ValueError, match="`ids_file` is a folder"):
        ForgetRequest(column="user", ids_file=tmp_path).split(pets)


def test_ids_file_joins_values(pets, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("u1\n")
    split = ForgetRequest(column="user", values=["u2"], ids_file=file).split(pets)
    assert set(split.forget["user"]) == {"u1", "u2"}


@pytest.mark.parametrize(
    ("content", "match"), [("", "`ids_file` is empty"), ("x1\n", "`ids_file` must hold row numbers")]
)
def test_bad_ids_file_is_refused(pets, tmp_path, content, match):
    file = tmp_path / "ids.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=match):
        ForgetRequest(ids_file=file).split(pets)
    with pytest.raises(ValueError, match="`ids_file` does not exist"):
        ForgetRequest(ids_file=tmp_path / "none.txt").split(pets)


def test_fraction_is_seeded_and_reproducible(pets):
    draws = [ForgetRequest(fraction=0.2, seed=s).split(pets).forget_indices.tolist() for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert [len(d) for d in draws] == [6, 6, 6]


def test_fraction_draws_from_the_rows_that_other_criteria_leave(pets):
    split = ForgetRequest(label="dog", fraction=0.5).split(pets)
    assert len(split.forget) == 5
    assert set(split.forget["label"]) == {1}
    assert set(split.retain["label"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (ForgetRequest(label="lion"), r"`label='lion'`.*cat, dog, horse"),
        (ForgetRequest(label=7), r"`label=7`.*cat, dog, horse"),
        (ForgetRequest(label=["cat", "lion"]), r"`label='lion'`"),
        (ForgetRequest(label="cat", label_column="species"), r"`label_column='species'`.*label, user, id, age"),
        (ForgetRequest(column="person", values=["u1"]), r"`column='person'`.*label, user, id, age"),
        (ForgetRequest(column="user", values=["u1", "u9"]), r"`values`: 1 of 2 are in no row"),
        (ForgetRequest(column="id", values=["x"]), r"`values` cannot be read as int64"),
        (ForgetRequest(indices=[30]), r"`indices`: 1 of 1 row numbers lie outside 0\.\.29"),
        (ForgetRequest(indices=[-1]), r"`indices`: 1 of 1 row numbers lie outside 0\.\.29"),
        (ForgetRequest(indices=[]), r"selects no row"),
        (ForgetRequest(predicate=lambda r: False), r"selects no row"),
        (ForgetRequest(label="cat") & ForgetRequest(label="dog"), r"selects no row"),
        (ForgetRequest(fraction=0.001), r"selects no row"),
        (ForgetRequest(label=NAMES), r"selects all 30 rows"),
        (ForgetRequest(predicate=lambda r: True), r"selects all 30 rows"),
    ],
)
def test_bad_requests_say_what_is_wrong(pets, request_, match):
    with pytest.raises(ValueError, match=match):
        request_.split(pets)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "names nothing to forget"),
        ({"values": ["u1"]}, "`values` needs `column`"),
        ({"column": "user"}, "`column='user'` needs `values` or `ids_file`"),
        ({"column": "user", "values": "u1"}, "`values` must be a list"),
        ({"fraction": 0.0}, "`fraction`"),
        ({"fraction": 1.0}, "`fraction`"),
        ({"fraction": 20}, "`fraction`"),
    ],
)
def test_contradictory_requests_are_refused_at_once(arguments, match):
    with pytest.raises(ValueError, match=match):
        ForgetRequest(**arguments)


def test_dictionaries_and_streams_are_refused(pets):
    with pytest.raises(TypeError, match=r"`dataset` is a dictionary of splits \(train\)"):
        ForgetRequest(label=0).split(datasets.DatasetDict(train=pets))
    with pytest.raises(TypeError, match=r"`dataset` must be a `datasets\.Dataset`"):
        ForgetRequest(label=0).split(pets.to_iterable_dataset())


def test_float_and_string_labels_without_class_names():
    named = datasets.Dataset.from_dict({"label": ["spam", "ham", "spam"]})
    assert ForgetRequest(label="spam").split(named).forget_indices.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"`label='egg'`.*column 'label' holds 2 different values"):
        ForgetRequest(label="egg").split(named)
    plain = datasets.Dataset.from_dict({"label": [5, 7, 5]})
    assert ForgetRequest(label=7).split(plain).forget_indices.tolist() == [1]
    with pytest.raises(ValueError, match=r"`label=6`.*holds 2 different values"):
        ForgetRequest(label=6).split(plain)


def test_missing_values_in_the_column_are_kept():
    data = datasets.Dataset.from_dict({"user": ["a", None, "b"]})
    assert ForgetRequest(column="user", values=["a"]).split(data).forget_indices.tolist() == [0]


def test_describe_reveals_no_value(pets, tmp_path):
    file = tmp_path / "secret-file.txt"
    file.write_text("secret-two\n17\n")
    requests = ForgetRequest(column="user", values=["secret-one"]) | ForgetRequest(column="user", ids_file=file)
    requests |= ForgetRequest(indices=[17]) & ForgetRequest(label="dog", fraction=0.25, seed=3)
    text = requests.describe(NAMES)
    assert "secret" not in text + repr(requests)
    assert "17" not in text + repr(requests)
    for part in ("column 'user'", "rows given by number", "class dog", "25%", " or ", " and "):
        assert part in text
    assert "one class, a random 25%" in requests.describe()
    with pytest.raises(ValueError, match="`values`: 1 of 1") as error:
        ForgetRequest(column="user", values=["secret-one"]).split(pets)
    assert "secret-one" not in str(error.value)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("dog", "class dog"),
        (1, "class dog"),
        ("1", "class dog"),
        ([0, "dog"], "classes cat, dog"),
        (["cat", "u-7731"], "classes cat and 1 more"),
        ("u-7731", "one class"),
        (["u-7731", 7731], "2 classes"),
        ("9" * 5000, "one class"),
    ],
)
def test_only_the_models_labels_are_named(label, words):
    assert ForgetRequest(label=label).describe(NAMES) == words


def test_errors_name_no_value_of_a_column(pets, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("u-7731\n")
    requests = (
        lambda: ForgetRequest(ids_file=file).split(pets),
        lambda: ForgetRequest(column="user", ids_file=file).split(pets),
        lambda: ForgetRequest(column="id", values=["u-7731"]).split(pets),
        lambda: ForgetRequest(column="user", values="u-7731"),
        lambda: ForgetRequest(column="id", values=[100], predicate=lambda r: False, ids_file=file).split(pets),
    )
    for request in requests:
        with pytest.raises(ValueError, match="`") as error:
            request()
        assert "7731" not in "".join(traceback.format_exception(error.value.with_traceback(None)))
    many = datasets.Dataset.from_dict({"label": range(300)})
    many = many.cast_column("label", datasets.ClassLabel(names=[f"n{i:03}" for i in range(300)]))
    with pytest.raises(ValueError, match=r"n000, .*n049, and 250 more\.") as error:
        ForgetRequest(label="n300").split(many)
    assert "n123" not in str(error.value)


@pytest.mark.slow
def test_a_million_rows_are_split_without_copies():
    n = 1_000_000
    data = datasets.Dataset.from_dict({"label": np.arange(n) % 10, "user": np.arange(n) // 100})
    started = time.perf_counter()
    split = ForgetRequest(column="user", values=[3, 5]).split(data)
    by_class = ForgetRequest(label=3, fraction=0.5).split(data)
    assert time.perf_counter() - started < 4
    assert len(split.forget) == 200
    assert len(by_class.forget) == 50_000
    assert split.retain.data.table is data.data.table or split.retain.data.table.equals(data.data.table)
    assert split.retain._indices is not None or len(split.retain) < n  # an index mapping or an Arrow slice


def test_images_are_not_decoded_by_a_split():
    broken = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": None}] * 4, "label": [0, 1, 0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    assert ForgetRequest(label=1).split(broken).forget_indices.tolist() == [1, 3]
    assert ForgetRequest(predicate=lambda r: r == {"label": 0}).split(broken).forget_indices.tolist() == [0, 2]

"""Splits of a data set: how they are cut, which rows a method's stop may read, and what a stream cannot do."""

import datasets
import pytest

from hf_unlearn.models.processor import Processor
from hf_unlearn.pipeline.data_sets import check_split_labels, check_streaming, check_unseen, load_splits
from hf_unlearn.pipeline.run_arguments import RunArguments
from tests.support.data import WORDS, image_data, image_processor, text_data, tokenizer
from tests.support.models import build


def run_on(folder, **keys):
    return RunArguments("m", str(folder), **{"forget_class": ["1"], **keys})


@pytest.fixture
def folder(tmp_path):
    for split, seed in (("train", 0), ("test", 9), ("dev", 5)):
        rows = text_data(50, seed).map(lambda _, i: {"row": i}, with_indices=True)
        rows.to_parquet(tmp_path / f"{'validation' if split == 'dev' else split}.parquet")
    return tmp_path


def test_rows_are_drawn_by_seed_and_at_most_all(folder):
    train, test, validation = load_splits(run_on(folder, train_rows=20, test_rows=500))
    again, _, _ = load_splits(run_on(folder, train_rows=20))
    assert (len(train), len(test), validation) == (20, 50, None)
    assert train["row"] == again["row"] != list(range(20))
    assert sorted(test["row"]) == list(range(50))


def test_a_fifth_of_the_test_split_is_held_out_and_not_measured_on(folder):
    _, test, validation = load_splits(run_on(folder), validate=True)
    assert (len(test), len(validation)) == (40, 10)
    assert sorted([*test["row"], *validation["row"]]) == list(range(50))


def test_a_named_split_is_held_out_whole_and_none_is_none(folder):
    _, test, validation = load_splits(run_on(folder, validation_split="validation"), validate=True)
    assert (len(test), validation["text"]) == (50, text_data(50, 5)["text"])
    _, test, validation = load_splits(run_on(folder, validation_split="none"), validate=True)
    assert (len(test), validation) == (50, None)
    _, test, validation = load_splits(run_on(folder, test_split=None), validate=True)
    assert (test, validation) == (None, None)


@pytest.mark.parametrize("key", ["train_split", "test_split", "validation_split"])
def test_a_split_that_is_missing_is_named_with_those_that_are_there(folder, key):
    with pytest.raises(ValueError, match=f"`{key}='trian'` is not in the data set; it has train, (validation, )?test"):
        load_splits(run_on(folder, **{key: "trian"}))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"train_rows": 5}, "train_rows"),
        ({"retrain": True}, "retrain"),
        ({"model_config": "config.json"}, "model_config"),
        ({"forget_fraction": 0.1}, "forget_fraction"),
        ({"forget_ids_file": "rows.txt"}, "forget_ids_file"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(keys, name):
    with pytest.raises(ValueError, match=f"`streaming` and `{name}` do not go together"):
        check_streaming(RunArguments("m", "org/data", streaming=True, **keys))


def test_a_stream_may_forget_by_a_column_and_digits_are_none():
    check_streaming(RunArguments("m", "org/data", streaming=True, forget_column="user", forget_ids_file="users.txt"))
    with pytest.raises(ValueError, match="digits are in memory"):
        check_streaming(RunArguments("m", "digits", streaming=True))


def pets(labels, names):
    return image_data(len(labels)).remove_columns("label").add_column("label", labels).cast_column("label", names)


@pytest.mark.parametrize(
    ("split", "labels", "names", "match"),
    [
        ("train_split", [0, 1, 1], ["ant", "cow"], r"`train_split`: .*`label2id`: 'cow' \(2 rows\)"),
        ("test_split", [0, 1], ["ant", "cow"], "`test_split`: .*'cow'"),
        ("validation_split", [0, 1], ["ant", "cow"], "`validation_split`: .*'cow'"),
        (
            "test_split",
            [0, None],
            ["ant", "bee"],
            "`test_split`: 1 of 2 labels in column 'label' are missing, the first in row 1",
        ),
        ("train_split", [0, 1], ["ant", "dog"], "`forget_class='1'` is 'dog' in the data set and 'bee' in the model"),
    ],
)
def test_labels_of_every_split_are_compared_with_the_model(split, labels, names, match):
    model = build("vit")
    model.config.id2label = dict(enumerate(("ant", "bee", "cat", "dog")))
    processor, run = Processor(model, image_processor()), RunArguments("m", "d", forget_class=["1"])
    good = pets([0, 1, 2, 3], datasets.ClassLabel(names=["ant", "bee", "cat", "dog"]))
    splits = {"train_split": good, "test_split": good, "validation_split": None}
    check_split_labels(run, processor, splits)
    with pytest.raises(ValueError, match=match):
        check_split_labels(run, processor, splits | {split: pets(labels, datasets.ClassLabel(names=names))})
    named = RunArguments("m", "d", forget_class=["dog"])
    check_split_labels(
        named, processor, splits | {"train_split": pets([0, 1], datasets.ClassLabel(names=["ant", "dog"]))}
    )


def test_inputs_that_are_prepared_in_one_split_only_are_refused(tmp_path):
    text_data(8).add_column("input_ids", [[1, 2]] * 8).to_parquet(tmp_path / "train.parquet")
    text_data(8).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="`test_split='test'`: column 'input_ids' is empty"):
        load_splits(run_on(tmp_path))
    train, _, _ = load_splits(run_on(tmp_path, test_split=None))
    assert train["input_ids"][0] == [1, 2]


def test_a_single_file_has_one_split_and_says_how_to_go_without_a_test_split(tmp_path):
    text_data(8).to_csv(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"it has train\. Name one of these, or pass --test_split none"):
        load_splits(run_on(tmp_path / "rows.csv"))
    train, test, _ = load_splits(run_on(tmp_path / "rows.csv", test_split=None))
    assert (len(train), test) == (8, None)


def test_data_that_cannot_be_read_or_has_no_revisions_is_named(folder):
    with pytest.raises(ValueError, match="`dataset_revision='v1'`: `dataset="):
        load_splits(run_on(folder, dataset_revision="v1"))
    (folder / "train.parquet").write_bytes(b"PAR1")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="`dataset`: "):
            load_splits(run_on(folder, streaming=streaming))


@pytest.mark.parametrize("key", ["test_split", "validation_split"])
def test_the_training_split_is_no_split_of_unseen_rows(folder, key):
    message = f"`{key}='train'` is the training split.*or pass --{key} none"
    with pytest.raises(ValueError, match=message):
        load_splits(run_on(folder, **{key: "train"}), validate=True)


def test_rows_that_were_trained_on_are_refused_or_counted(folder, caplog):
    train, run = text_data(50), run_on(folder, validation_split="validation")
    texts = Processor(build("bert"), tokenizer())
    copy = train.shuffle(seed=3).select(range(20)).remove_columns("group")
    with pytest.raises(ValueError, match="`validation_split='validation'` holds 20 rows, and all are in the training"):
        check_unseen(run, texts, train, {"test_split": None, "validation_split": copy})
    with pytest.raises(ValueError, match="`test_split='test'` holds 20 rows"):
        check_unseen(run, texts, train, {"test_split": copy})
    train = train.map(lambda _, i: {"text": f"{WORDS[i % 24]} " * (2 + i)}, with_indices=True)
    fresh = train.map(lambda row: {"text": row["text"] + WORDS[0] + WORDS[1]})
    mixed = datasets.concatenate_datasets([fresh.select(range(15)), train.select(range(5))])
    check_unseen(run, texts, train, {"test_split": mixed, "validation_split": fresh})
    assert "`test_split='test'`: 5 of 20 rows have an identical copy in the training split." in caplog.text
    assert "validation" not in caplog.text


def test_fewer_than_five_test_rows_are_all_measured_on(folder):
    _, test, validation = load_splits(run_on(folder, test_rows=4), validate=True)
    assert (len(test), validation) == (4, None)

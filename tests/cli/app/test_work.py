"""What the page of the app does, without a browser."""

import json
import time

import pytest

from hf_unlearn.cli.app.work import check_receipt, lines_of, options_of, running, what_will_be_read
from hf_unlearn.hub.receipt.sealing import read_receipt
from hf_unlearn.hub.receipt.signing import UNSIGNED, generate_key, sign
from tests.support.receipts import publish
from tests.support.recipes import save_model_and_data

FIELDS = {
    "original": " org/model ", "unlearned": "org/other", "retrained": "org/a\n\n org/b \n", "train": "org/data:train",
    "test": "org/data:test", "classes": "cat\ndog, large\n", "column": "", "values": "", "ids": None,
}  # fmt: skip


def folder_of(published):
    """The folder of `publish`, without its signature."""
    folder = published if hasattr(published, "glob") else published[0]
    for signature in folder.glob("*.sig"):
        signature.unlink()
    return folder


def test_fields_become_the_options_of_an_audit(tmp_path):
    found = options_of(**FIELDS)
    assert (found.original, found.retrained) == ("org/model", ["org/a", "org/b"])
    assert (found.forget, found.forget_class, found.forget_values) == ("org/data:train", ["cat", "dog, large"], None)
    (tmp_path / "ids.txt").write_text("\ufeffu1\r\nu2\n\n")
    users = options_of(**FIELDS | {"classes": "", "column": "user", "values": "u0", "ids": str(tmp_path / "ids.txt")})
    assert (users.forget_class, users.forget_column, users.forget_values) == (None, "user", ["u0", "u1", "u2"])
    assert lines_of(None) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original": " "}, "The field 'original' is empty"),
        ({"test": ""}, "The field 'test rows' is empty"),
        ({"classes": " \n "}, "Say what was to be forgotten"),
    ],
)
def test_an_empty_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        options_of(**FIELDS | changes)


@pytest.mark.parametrize("name", ["original", "unlearned", "retrained", "train", "test"])
def test_where_others_use_the_page_no_folder_is_read(name, tmp_path):
    for place in (str(tmp_path), "/etc", "~/model", f"{tmp_path}:train"):
        with pytest.raises(ValueError, match="Hub ids only"):
            options_of(**FIELDS | {name: place}, local=False)
    assert options_of(**FIELDS, local=False).original == "org/model"


def test_what_will_be_read_is_said_before_it_is(tmp_path):
    folder = save_model_and_data(tmp_path)
    fields = FIELDS | {"original": str(folder / "original"), "unlearned": str(folder / "original"), "retrained": ""}
    fields |= {"train": f"{folder / 'data'}:train", "test": f"{folder / 'data'}:test", "classes": "1"}
    said = what_will_be_read(options_of(**fields))
    assert "2 models (no retrained model, so little can be concluded)" in said
    assert "24 forget" in said
    assert "96 test" in said
    with pytest.raises(ValueError, match="there is no such file or folder"):
        what_will_be_read(options_of(**fields | {"unlearned": str(tmp_path / "missing")}))


def test_a_running_audit_says_how_far_it_is():
    def work(options, tell):
        tell("It takes about 2 s.")
        time.sleep(1.2)
        return options

    *said, found = running("the options", work)
    assert found == "the options"
    assert said[0] == "It takes about 2 s. (0 s so far)"
    assert len(said) >= 2
    assert said[-1] > said[0]


def test_what_an_audit_raises_reaches_the_page():
    def work(options, tell):
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        list(running(None, work))


def test_a_receipt_is_checked_with_and_without_its_files(tmp_path):
    folder = folder_of(publish(tmp_path))
    receipt = str(folder / "unlearning_receipt.json")
    good, said = check_receipt(receipt)
    assert good
    assert UNSIGNED in said
    assert any("The files themselves were not checked" in line for line in said)
    good, said = check_receipt(None, folder=str(folder))
    assert good
    (folder / "config.json").write_text("{}")
    good, said = check_receipt(receipt, folder=str(folder))
    assert not good
    assert any("config.json: changed" in line for line in said)
    with pytest.raises(ValueError, match="Drop a receipt"):
        check_receipt(None)


def test_a_changed_receipt_and_a_foreign_signature_do_not_fit(tmp_path):
    pytest.importorskip("cryptography")
    folder = folder_of(publish(tmp_path))
    path = folder / "unlearning_receipt.json"
    key, other = (generate_key(tmp_path / f"{name}.pem") for name in ("own", "other"))
    sign(path, tmp_path / "own.pem")
    good, said = check_receipt(str(path), [str(path) + ".sig"], str(key))
    assert good
    assert UNSIGNED not in said
    assert not any("nobody knows by whom" in line for line in said)
    good, said = check_receipt(str(path), [str(path) + ".sig"])
    assert any("nobody knows by whom" in line for line in said)
    assert not check_receipt(str(path), [str(path) + ".sig"], str(other))[0]
    moved = (tmp_path / "upload.sig").resolve()  # the page has uploaded files in folders of their own
    (folder / (path.name + ".sig")).rename(moved)
    assert check_receipt(str(path), [str(moved)], str(key), str(folder))[0]
    moved.write_text("garbage")
    good, said = check_receipt(str(path), [str(moved)], None, str(folder))
    assert not good
    with pytest.raises(ValueError, match=r"'key.pub' is no signature"):
        check_receipt(str(path), ["key.pub"])
    receipt = read_receipt(path)
    path.write_text(json.dumps({**receipt, "started": "2020-01-01"}))
    assert not check_receipt(str(path))[0]

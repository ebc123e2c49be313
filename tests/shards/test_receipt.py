"""The receipt of an exact deletion says which shards were trained again, and that can be checked."""

import shutil

import jsonschema
import pytest

from hf_unlearn.data.forget_request import ForgetRequest
from hf_unlearn.hub.layout import RECEIPT
from hf_unlearn.hub.receipt.forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows
from hf_unlearn.hub.receipt.sealing import read_receipt, seal, verify_folder
from hf_unlearn.shards.receipt import untouched_problems
from hf_unlearn.utils.files import file_digest
from tests.shards.support import shared, trainer, weights
from tests.support.receipts import SCHEMA

pytestmark = pytest.mark.xdist_group("shared shards")


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    place = tmp_path_factory.mktemp("versions")
    folder, _, rows = shared()
    trainer().forget(folder, rows, ForgetRequest(column="owner", values=["u3"]), place / "v2", request_id="case-7")
    trainer().forget(place / "v2", rows, ForgetRequest(column="owner", values=["u4"]), place / "v3")
    return folder, place / "v2", place / "v3"


def test_it_is_a_receipt_like_any_other_with_what_was_trained_and_what_was_not(versions):
    folder, second, third = versions
    receipt = read_receipt(second / RECEIPT)
    jsonschema.validate(receipt, SCHEMA)
    outcome = receipt["outcome"]
    assert receipt["request"] == {"id": "case-7", "kind": "samples", "classes": [], "selected_by": ["column"]}
    assert receipt["forgotten_rows"]["rows"] == 6
    assert outcome["exact"] is True
    changed = [i for i, (a, b) in enumerate(zip(weights(folder), weights(second), strict=True)) if a != b]
    assert outcome["trained_shards"] == changed
    assert outcome["unchanged_shards"] == {
        f"shard-{i:02d}": digest for i, digest in enumerate(weights(second)) if i not in changed
    }
    assert 0 < outcome["steps"] < outcome["steps_of_all_shards"]
    assert receipt["previous"] is None
    assert read_receipt(third / RECEIPT)["previous"] == file_digest(second / RECEIPT)
    assert not any(PRIVATE_FOLDER in name for name in receipt["files"])


def test_nothing_in_it_names_a_person(versions):
    text = (versions[1] / RECEIPT).read_text()
    assert "u3" not in text
    assert "owner" not in text
    assert str(versions[1].parent) not in text


def test_the_owner_can_prove_that_a_row_was_in_it(versions):
    rows = shared()[2]
    private = ForgottenRows.load(versions[1] / PRIVATE_FOLDER / PRIVATE_FILE)
    rows = rows.select_columns(sorted(rows.column_names))
    own = [row for row in rows if row["owner"] == "u3"]
    assert all(private.contains(row) for row in own)
    assert not private.contains(next(row for row in rows if row["owner"] == "u5"))


def test_untouched_shards_are_checked_against_the_version_before(versions, tmp_path):
    folder, second, third = versions
    assert not untouched_problems(second, folder)
    assert not untouched_problems(third, second)
    assert any("another one" in problem for problem in untouched_problems(third, folder))
    shutil.copytree(second, tmp_path / "v2")
    outcome = read_receipt(second / RECEIPT)["outcome"]
    name = next(iter(outcome["unchanged_shards"]))
    other = f"shard-{outcome['trained_shards'][0]:02d}"
    shutil.copy(second / other / "adapter_model.safetensors", tmp_path / "v2" / name / "adapter_model.safetensors")
    assert any(name in problem for problem in verify_folder(tmp_path / "v2"))
    seal(tmp_path / "v2", whole=False)  # whoever hides the change in the digests of files
    assert not verify_folder(tmp_path / "v2")
    assert untouched_problems(tmp_path / "v2", folder) == [
        f"{name}: its weights now are not those that the receipt calls unchanged"
    ]


def test_a_version_that_answers_no_request_has_nothing_to_check(versions):
    with pytest.raises(ValueError, match="missing"):
        untouched_problems(versions[0], versions[1])

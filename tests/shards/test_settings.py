"""Settings of a sharded model, and the description that they give with a base."""

import pytest

from hf_unlearn.shards.settings import ShardSettings, sharding_of
from tests.shards.support import rows_for, save_base
from tests.support.data import text_data


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_shards": 0}, "`num_shards` must be at least 1"),
        ({"num_shards": 101}, "at most 100"),
        ({"slices": 0}, "`slices`"),
        ({"num_train_epochs": 0.0}, "`num_train_epochs`"),
        ({"peft_config": "lorra"}, "neither lora"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ShardSettings(**given)


def test_what_bits_depend_on_is_recorded_and_nothing_names_a_column_of_persons():
    recorded = ShardSettings(group_column="patient").recorded(2)
    assert recorded["peft_config"] == {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    assert recorded["adapted_blocks"] == 2
    assert "patient" not in str(recorded)


def test_the_description_holds_classes_base_and_versions(tmp_path, caplog):
    base = save_base("bert", tmp_path / "base")
    sharding, tokenizer = sharding_of(base, rows_for("bert"), ShardSettings(num_shards=2))
    assert sharding.labels == [str(i) for i in range(4)]
    assert sharding.settings["adapted_blocks"] == 1
    assert sharding.versions.keys() == {"torch", "transformers", "peft", "device"}
    assert tokenizer("w1").input_ids
    assert "is a folder, so nobody else can tell which base it is" in caplog.text
    again, _ = sharding_of(base, rows_for("bert"), ShardSettings(num_shards=2))
    assert again == sharding


def test_a_base_or_rows_that_do_not_serve_are_named(tmp_path):
    base = save_base("bert", tmp_path / "base")
    with pytest.raises(ValueError, match=r"label_column='grade'"):
        sharding_of(base, text_data(8).rename_column("label", "class"), ShardSettings(label_column="grade"))
    with pytest.raises(ValueError, match="model"):
        sharding_of(str(tmp_path / "nowhere"), text_data(8), ShardSettings())

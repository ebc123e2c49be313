"""One shard: stages known by what they depend on, checkpoints, and bits that are always the same."""

import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hf_unlearn.models.sharded_classifier import fresh_classifier
from hf_unlearn.models.structure import find_blocks
from hf_unlearn.shards.settings import ShardSettings, sharding_of
from hf_unlearn.shards.shard_training import (
    CHECKPOINT,
    configuration,
    default_adapted_blocks,
    find_checkpoint,
    plan_shard,
    read_checkpoint,
    same_bits,
    save_shard,
    shard_model,
    stage_keys,
    tensors_digest,
    versions,
    weights_of_shard,
)
from hf_unlearn.shards.version import Version
from tests.shards.support import KEY, SMALL, rows_for, save_base, shared

pytestmark = pytest.mark.xdist_group("shared shards")

IDS = [["11" * 32, "22" * 32], ["33" * 32]]


@pytest.fixture(scope="module")
def sharding(tmp_path_factory):
    base = save_base("bert", tmp_path_factory.mktemp("base"))
    return sharding_of(base, rows_for("bert"), ShardSettings(**SMALL))[0]


def test_a_stage_is_known_by_all_that_its_weights_depend_on(sharding):
    keys = stage_keys(sharding, 0, IDS, KEY)
    assert stage_keys(sharding, 0, IDS, KEY) == keys
    assert keys[0] != keys[1]
    others = [
        stage_keys(sharding, 1, IDS, KEY),
        stage_keys(replace(sharding, seed=1), 0, IDS, KEY),
        stage_keys(replace(sharding, base_weights="x"), 0, IDS, KEY),
        stage_keys(replace(sharding, versions={**sharding.versions, "torch": "0"}), 0, IDS, KEY),
        stage_keys(replace(sharding, settings={**sharding.settings, "learning_rate": 1.0}), 0, IDS, KEY),
        stage_keys(sharding, 0, [IDS[0][::-1], IDS[1]], KEY),
        stage_keys(sharding, 0, [IDS[0][:1], IDS[1]], KEY),
        stage_keys(sharding, 0, IDS, bytes(32)),
    ]
    assert all(other[0] != keys[0] for other in others)
    later = stage_keys(sharding, 0, [IDS[0], ["44" * 32]], KEY)
    assert later[0] == keys[0]  # it does not depend on later slices
    assert later[1] != keys[1]
    described_by_shards = replace(sharding, shards=[{"rows": 5, "weights": "x", "trained": True}], previous="y")
    assert stage_keys(described_by_shards, 0, IDS, KEY) == keys


def test_a_plan_starts_behind_the_last_stage_whose_checkpoint_is_there(sharding, tmp_path):
    work = plan_shard(sharding, 0, IDS, KEY, [tmp_path])
    assert (work.start, work.steps_left) == (0, sum(work.steps))
    (tmp_path / CHECKPOINT.format(0, 0, work.keys[0])).touch()
    work = plan_shard(sharding, 0, IDS, KEY, [tmp_path / "none", tmp_path])
    assert (work.start, work.steps_left) == (1, work.steps[1])
    assert find_checkpoint(0, 0, work.keys[0], [tmp_path / "none", tmp_path]).parent == tmp_path
    shorter = plan_shard(sharding, 0, [IDS[0][:1], IDS[1]], KEY, [tmp_path])
    assert shorter.start == 0


def test_by_default_the_linear_layers_of_the_last_blocks_are_adapted(sharding):
    model, fresh = fresh_classifier(sharding)
    found = configuration(sharding, model, fresh)
    last = find_blocks(model)[-1]
    assert found.target_modules
    assert all(name.startswith(last) for name in found.target_modules)
    assert any(name.endswith("output.dense") for name in found.target_modules)
    assert set(found.modules_to_save) == set(fresh)
    assert default_adapted_blocks(model) == 1
    with pytest.raises(ValueError, match="`adapted_blocks=5`: the base has 2 blocks"):
        configuration(replace(sharding, settings={**sharding.settings, "adapted_blocks": 5}), model, fresh)


def test_only_adapters_head_and_what_the_base_lacks_are_trained(sharding):
    model, names = shard_model(sharding, 0)
    assert all("lora_" in n or "modules_to_save" in n for n in names)
    start = dict(fresh_classifier(sharding)[0].named_parameters())
    for name, p in model.get_base_model().named_parameters():
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        if plain in start and not plain.startswith(("classifier", "bert.pooler")):
            assert torch.equal(p, start[plain])
    other = dict(shard_model(sharding, 1)[0].named_parameters())
    again = dict(shard_model(sharding, 0)[0].named_parameters())
    mine = dict(model.named_parameters())
    drawn = next(n for n in names if "lora_A" in n)
    assert torch.equal(mine[drawn], again[drawn])
    assert not torch.equal(mine[drawn], other[drawn])


def test_the_bits_of_a_saved_adapter_do_not_depend_on_the_order_of_a_set(sharding, tmp_path):
    files = []
    for number in range(2):
        model, _ = shard_model(sharding, 0)
        names = sorted(model.peft_config["default"].target_modules)
        random.Random(number).shuffle(names)
        model.peft_config["default"].target_modules = names
        save_shard(model, tmp_path / f"shard-{number:02d}")
        files.append((tmp_path / f"shard-{number:02d}" / "adapter_config.json").read_bytes())
    assert files[0] == files[1]
    assert weights_of_shard(tmp_path, 0) == weights_of_shard(tmp_path, 1)


def test_threads_and_kernels_are_as_before_afterwards():
    threads = torch.get_num_threads()
    with same_bits("cpu"):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_last_checkpoint_holds_what_the_adapter_is():
    version = Version.load(shared()[0])
    work = plan_shard(version.sharding, 0, version.ledger.ids[0], version.key, [version.checkpoints])
    assert work.start == 2
    kept = load_file(find_checkpoint(0, 1, work.keys[1], [version.checkpoints]))
    saved = load_file(version.folder / "shard-00" / "adapter_model.safetensors")
    assert len(saved) == len(kept)
    for name, tensor in kept.items():
        plain = name.replace(".default", "").replace("modules_to_save.", "")
        assert torch.equal(saved[plain], tensor)


def test_what_bits_depend_on_are_versions_and_the_device():
    found = versions(use_cpu=True)
    assert found["torch"] == torch.__version__
    assert found["device"] == f"cpu {torch.backends.cpu.get_cpu_capability()}"


def test_a_damaged_checkpoint_is_named_and_never_used(tmp_path):
    version = Version.load(shared()[0])
    whole = next(version.checkpoints.glob("*.safetensors"))
    assert read_checkpoint(whole)
    raw = bytearray(whole.read_bytes())
    raw[-1] ^= 1
    for name, content in (("flipped", bytes(raw)), ("cut", bytes(raw[:-100])), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} (is damaged|cannot be read)"):
            read_checkpoint(tmp_path / name)


def test_the_digest_of_a_checkpoint_is_of_names_and_values():
    one = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert tensors_digest(one) == tensors_digest(dict(reversed(one.items())))
    assert tensors_digest(one) != tensors_digest({"a": torch.ones(2), "c": torch.zeros(2)})
    assert tensors_digest(one) != tensors_digest({"a": torch.ones(2), "b": torch.ones(2)})

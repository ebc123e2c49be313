"""Configurations of adapters: defaults, and what is refused before the model is touched."""

import json

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig

from hf_unlearn.models.adapter_config import SHORTHANDS, adapter_config, kind_of, read_config
from hf_unlearn.models.adapters import Patch, load_patches
from hf_unlearn.models.structure import default_targets
from tests.models.support import logits, patched
from tests.support.methods import make
from tests.support.models import changed, state, trained


def test_a_vit_b_patch_of_rank_8_takes_at_most_3_mb():
    from transformers import ViTConfig, ViTForImageClassification

    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=1000))
    targets = default_targets(model)
    assert len(targets) == 12 * 4
    size = sum(4 * 8 * (m.in_features + m.out_features) for m in map(model.get_submodule, targets))
    assert adapter_config("lora", model).r == 8
    assert size <= 3_000_000


@pytest.mark.slow
def test_layer_norms_are_the_default_of_ln_tuning():
    config = adapter_config({"peft_type": "LN_TUNING"}, trained("vit"))
    assert len(config.target_modules) == 2 * 2
    assert all("layernorm" in name for name in config.target_modules)
    assert LNTuningConfig().target_modules is None
    with pytest.raises(ValueError, match="no layer to adapt"):
        adapter_config({"peft_type": "LN_TUNING"}, trained("resnet"))  # batch norms hold statistics of the data


@pytest.mark.slow
def test_feedforward_modules_that_peft_knows_are_left_out_where_none_are_named(tmp_path):
    """Of BERT it would name layers that are no targets, and what it saves it then cannot load."""
    patch = Patch(trained("bert"), IA3Config(target_modules=["query"]))
    patch.model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_patches(trained("bert"), tmp_path), "bert"), logits(patch.model, "bert"))


@pytest.mark.parametrize(
    ("config", "changes", "match"),
    [
        ("lora", {"update": "head"}, "`update='head'` and `peft_config`"),
        ("lora", {"method": "retrain"}, "`method='retrain'` starts from fresh weights"),
        ("nonsense", {}, "neither lora, dora, ia3"),
        ({"peft_type": "NONSENSE"}, {}, "does not know `peft_type='NONSENSE'`"),
        ({"peft_type": "LORA", "rank": 8}, {}, "not a LORA configuration: .*rank"),
        ('["r", 8]', {}, "neither lora, dora, ia3"),
        (LoraConfig(task_type="SEQ_CLS"), {}, "an image model does not take"),
        (LoraConfig(target_modules=["no_such_layer"]), {}, "does not fit the model: .*no_such_layer"),
        (LoraConfig(r=0), {}, "does not fit the model"),
    ],
)
def test_bad_configurations_are_refused_by_name(tmp_path, config, changes, match):
    model = trained("vit")
    before = state(model)
    method = make(changes.pop("method", "jit"))
    with pytest.raises((ValueError, TypeError), match=match):
        patched("vit", tmp_path, method, config, model=model, **changes)
    assert not changed(before, state(model))


def test_other_things_than_configurations_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`peft_config` must be"):
        patched("vit", tmp_path, config=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "match"),
    [
        (LoraConfig(init_lora_weights="pissa"), "the original would be lost"),
        (LoraConfig(init_lora_weights="pissa_niter_4"), "the original would be lost"),
        (LoraConfig(init_lora_weights="olora"), "the original would be lost"),
        (LoraConfig(bias="all"), "trains biases of the original itself"),
        ({"peft_type": "OFT", "bias": "oft_only"}, "trains biases of the original itself"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "SEQ_CLS"}, "neither switch them off nor merge"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, "neither switch them off nor merge"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 4}, "neither switch them off nor merge"),
    ],
)  # fmt: skip
def test_what_cannot_be_switched_off_is_refused_before_the_model_is_touched(tmp_path, config, match):
    model = trained("bert")
    before = state(model)
    with pytest.raises(ValueError, match=match):
        patched("bert", tmp_path, config=config, model=model)
    assert not changed(before, state(model))


@pytest.mark.parametrize("name", SHORTHANDS)
def test_names_mappings_json_and_configurations_say_the_same(name):
    expected = read_config(name)
    assert kind_of(expected) == SHORTHANDS[name]["peft_type"]
    for given in (SHORTHANDS[name], json.dumps(SHORTHANDS[name]), expected):
        assert read_config(given).to_dict() == expected.to_dict()
    assert read_config(expected) is not expected
    small = {**SHORTHANDS[name], "peft_type": SHORTHANDS[name]["peft_type"].lower()}
    assert read_config(small).to_dict() == expected.to_dict()


def test_a_given_configuration_stays_as_it_is():
    given = LoraConfig(r=2)
    assert adapter_config(given, trained("vit")).target_modules
    assert given.target_modules is None

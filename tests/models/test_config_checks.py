"""Numbers in a config.json are compared with the file of weights before a model of that size is built."""

import json
import time

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from hf_unlearn.models.classifier_class import classifier_class
from hf_unlearn.models.config_checks import (
    FRESH,
    Held,
    check_size,
    held_by,
    raw_config,
    read_config,
    shapes_in,
    weights_file,
)
from hf_unlearn.models.pretrained import load_classifier
from tests.support.models import build


@pytest.fixture
def folder(tmp_path):
    build("bert").save_pretrained(tmp_path)
    return tmp_path


def change(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_header_gives_names_and_shapes_and_a_file_its_size(folder):
    model, file = build("bert"), folder / "model.safetensors"
    assert shapes_in(file) == {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert held_by(file) == Held(len(model.state_dict()), file.stat().st_size)
    model.save_pretrained(folder / "shards", max_shard_size="10KB")
    index = weights_file(str(folder / "shards"))
    assert index.name == "model.safetensors.index.json"
    size = sum(t.nbytes for t in model.state_dict().values())
    assert held_by(index) == Held(len(model.state_dict()), size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_hidden_layers": 10**9},
            "config.json: `num_hidden_layers` is 1,000,000,000, and its weights are 41 tensors",
        ),
        ({"num_hidden_layers": 1e9}, "`num_hidden_layers`"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` is -1. Give a number of layers"),
        ({"num_labels": 10**9}, "config.json: `num_labels` is"),
        ({"layer_norm_eps": float("nan")}, "config.json: `layer_norm_eps` is nan"),
        ({"initializer_range": float("-inf")}, "config.json: `initializer_range` is -inf"),
        ({"vocab_size": 10**9}, "config.json asks for 16,0"),
        ({"hidden_size": 10**6}, "config.json asks for"),
        ({"model_type": "bertt"}, "the model type 'bertt', which this version of transformers does not know"),
        ({"model_type": None}, "names no model type"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "needs code of its own"),
    ],
)
def test_a_configuration_that_does_not_go_with_the_weights_is_refused_at_once(folder, settings, message):
    change(folder, **settings)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        load_classifier(str(folder))
    assert time.monotonic() - start < 20


def test_settings_that_a_model_does_not_read_and_infinite_time_steps_are_no_fault(folder):
    change(folder, max_window_layers=80, time_step_limit=[0.0, float("inf")], rope_theta=10**7, max_length=10**6)
    assert load_classifier(str(folder)).config.num_hidden_layers == 2


def test_a_model_without_weights_must_fit_into_memory(folder):
    change(folder, num_hidden_layers=10**6)
    with pytest.raises(ValueError, match="1,000,000, and at most 11,000 can be built"):
        read_config(str(folder))
    huge = BertConfig(hidden_size=2**20, num_attention_heads=1, intermediate_size=2**20, num_hidden_layers=1)
    with pytest.raises(ValueError, match="do not fit into the memory"):
        check_size(AutoModelForSequenceClassification, huge, FRESH)


def test_the_empty_model_takes_no_memory_and_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = check_size(AutoModelForSequenceClassification, build("bert").config, FRESH)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    torch.manual_seed(0)
    check_size(AutoModelForSequenceClassification, model.config, FRESH)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_without_weights_or_with_a_pickle_says_what_is_missing(folder):
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    assert weights_file(str(folder)) == weights
    weights.unlink()
    with pytest.raises(OSError, match=r"holds pytorch_model\.bin and no model\.safetensors"):
        weights_file(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match=r"holds no model\.safetensors"):
        weights_file(str(folder))


@pytest.mark.parametrize(
    ("inside", "meant"),
    [(("checkpoint-500", "checkpoint-1000"), "checkpoint-1000"), (("model", "retrained", "checkpoint-20"), "model")],
)
def test_a_folder_of_models_names_the_likeliest_of_them(tmp_path, inside, meant):
    for name in inside:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(OSError, match=rf"holds no config\.json\. Did you mean .*{meant}'"):
        raw_config(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id2label", "é"),
        ("id2label", [1]),
        ("id2label", {"a": "b"}),
        ("id2label", {"0": [1]}),
        ("label2id", 3),
        ("label2id", {"cat": None}),
        ("label2id", {"cat": 0.5}),
        ("model_type", ["bert"]),
    ],
)
def test_class_names_and_a_type_of_another_kind_are_named(folder, name, value):
    change(folder, **{name: value})
    with pytest.raises(ValueError, match=rf"config\.json.*({name}|the model type)"):
        read_config(str(folder))


@pytest.mark.parametrize("kind", ["deit", "levit"])
def test_an_architecture_with_two_classifiers_is_built_from_a_configuration_that_names_none(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "num_hidden_layers": 1}))
    config = read_config(str(tmp_path))
    assert type(check_size(classifier_class(config), config, FRESH)).__name__.endswith("ForImageClassification")

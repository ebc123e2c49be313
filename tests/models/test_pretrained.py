"""Classifiers and stacks of adapters in folders, loaded, saved, pushed and named on the command line."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_unlearn.cli import main
from hf_unlearn.hub.card.command_lines import snippet
from hf_unlearn.hub.push.staging import prepare_folder
from hf_unlearn.models.adapters import Patch
from hf_unlearn.models.pretrained import (
    load_classifier,
    load_processing_class,
    save_model,
)
from tests.models.support import logits, perturb
from tests.support.data import (
    CLASSES,
    TEXT,
    data_for,
    image_data,
    image_processor,
    processing_class,
    text_data,
    tokenizer,
)
from tests.support.models import build, changed, state, trained
from tests.support.tables import slow

# --- stacks of patches in folders -------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path):
    """A base and two patches on it, in folders, with the outputs of all three."""
    trained("vit").save_pretrained(tmp_path / "base")
    first = Patch(load_classifier(str(tmp_path / "base"), data_for("vit", 4)), "dora")
    perturb(first)
    first.model.save_pretrained(tmp_path / "one")
    once = logits(first.model, "vit")
    second = Patch(first.model, "dora", seed=1)
    perturb(second)
    save_model(second.model, image_processor(), tmp_path / "two")
    return tmp_path, once, logits(second.model, "vit")


@pytest.mark.slow
def test_a_folder_of_patches_is_loaded_whole(stack):
    folder, once, twice = stack
    rows = data_for("vit", 4)
    assert torch.equal(logits(load_classifier(str(folder / "one"), rows), "vit"), once)
    loaded = load_classifier(str(folder / "two"), rows)
    assert torch.equal(logits(loaded, "vit"), twice)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(logits(PeftModel.from_pretrained(trained("vit"), folder / "two"), "vit"), once), "PEFT alone"
    third = Patch(loaded, "dora", seed=2)
    assert (third.name, third.before) == ("patch2", ["default", "patch1"])
    with third.off() as now:
        assert torch.equal(logits(now, "vit"), twice)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), "vit"), twice, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("where", ["", "patch1"])
@pytest.mark.slow
def test_a_patch_that_lacks_tensors_or_is_a_pickle_is_refused(stack, where):
    folder, _, _ = stack
    file = folder / "two" / where / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="of another adapter"):
        load_classifier(str(folder / "two"), data_for("vit", 4))
    torch.save(tensors, file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        load_classifier(str(folder / "two"), data_for("vit", 4))


@pytest.mark.slow
def test_a_stack_is_not_pushed_without_what_is_on_top(stack):
    folder, _, twice = stack
    with (
        pytest.raises(ValueError, match="patches stacked on each other"),
        prepare_folder(folder / "two", base_model="alice/base"),
    ):
        pass
    run = {"task": "image-classification", "adapter": True, "patch": {"stacked_on": 1}, "original": {"id": "base"}}
    code = snippet(run, None)
    assert "load_patches(" in code
    names = {}
    exec(code.replace('"base"', repr(str(folder / "base"))).replace('"model"', repr(str(folder / "two"))), names)
    assert torch.equal(logits(names["model"], "vit"), twice)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def words(stack):
    folder = stack[0]
    image_processor().save_pretrained(folder / "base")
    (folder / "data").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        image_data(48, seed).to_parquet(folder / "data" / f"{split}.parquet")

    def of(**changes):
        keys = {
            "model": folder / "two", "dataset": folder / "data", "forget_class": 1, "output_dir": folder / "out",
            "use_cpu": "true", "disable_tqdm": "true", "figures": "false", "max_steps": 2, **changes,
        }  # fmt: skip
        return ["run", *(str(w) for k, v in keys.items() for w in (f"--{k}", v))]

    return of


@pytest.mark.slow
def test_a_run_puts_a_patch_on_patches_and_retrains_what_is_below(stack, words):
    folder, _, twice = stack
    assert main(words(peft_config="dora", retrain="true", train_epochs=1)) in (0, 1)
    loaded = load_classifier(str(folder / "out" / "model"), data_for("vit", 4))
    assert loaded.active_adapters == ["default", "patch1", "patch2"]
    loaded.base_model.set_adapter(["default", "patch1"])
    assert torch.equal(logits(loaded, "vit"), twice)
    retrained = load_classifier(str(folder / "out" / "retrained"), data_for("vit", 4))
    assert not isinstance(retrained, PeftModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "pass `peft_config`"),  # its own layers are in no file of an adapter
        ({"peft_config": "lorra", "model": "nowhere"}, "neither lora, dora, ia3"),
        ({"peft_config": '{"init_lora_weights": "pissa"}', "model": "nowhere"}, "would be lost"),
        ({"peft_config": '{"peft_type": "PROMPT_TUNING"}', "model": "nowhere"}, "virtual tokens"),
    ],
)
@pytest.mark.slow
def test_bad_patches_end_a_run_with_2(words, capsys, changes, message):
    assert main(words(**changes)) == 2
    assert message in capsys.readouterr().err


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_classifier_comes_back_in_float32_with_its_processor(tmp_path, dtype):
    model = build("bert").to(dtype)
    save_model(model, tokenizer(), tmp_path / "model")
    loaded = load_classifier(str(tmp_path / "model"), text_data(2))
    assert not changed({n: t.float() for n, t in state(model).items()}, state(loaded))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert (
        load_processing_class(str(tmp_path / "model"), text_data(2))("w1 w2").input_ids
        == tokenizer()("w1 w2").input_ids
    )


def test_a_backbone_without_a_head_is_no_classifier(tmp_path):
    build("bert").bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained classifier: it lacks 2 weights, such as classifier\.bias"):
        load_classifier(str(tmp_path), text_data(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_named(tmp_path, value):
    model = build("bert")
    with torch.no_grad():
        model.classifier.bias[1] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.bias holds NaN or infinite weights"):
        load_classifier(str(tmp_path), text_data(2))


def test_weights_under_the_names_of_a_wrapper_are_shown(tmp_path):
    build("bert").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"does not read \d+ others, such as module\.bert.* without a wrapper around it"
    ):
        load_classifier(str(tmp_path), text_data(2))


def test_an_adapter_that_names_no_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no base"):
        load_classifier(str(tmp_path), text_data(2))


# --- what a checkpoint is follows from its own files ------------------------------------------------------------------


def saved_text_model(folder, **config):
    model = build("bert")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if config:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return model


def test_the_configuration_says_whether_a_model_reads_images_or_texts(tmp_path):
    saved_text_model(tmp_path)
    both = text_data(2).add_column("img", ["https://example.org/x.png"] * 2)
    assert load_classifier(str(tmp_path), both).main_input_name == "input_ids"
    assert load_processing_class(str(tmp_path), both)("w1").input_ids == tokenizer()("w1").input_ids


def test_a_head_of_another_size_than_the_configuration_is_named_with_both_sizes(tmp_path):
    names = {str(i): f"L{i}" for i in range(7)}
    saved_text_model(tmp_path, id2label=names, label2id={n: int(i) for i, n in names.items()})
    with pytest.raises(ValueError, match=r"classifier\.bias: \(4,\) in the file, \(7,\) by config\.json"):
        load_classifier(str(tmp_path))


def test_weights_that_the_model_does_not_read_are_named(tmp_path, caplog):
    saved_text_model(tmp_path, num_hidden_layers=1)
    load_classifier(str(tmp_path))
    assert "holds 16 weights that the model does not read, such as bert.encoder.layer.1." in caplog.text


def test_outputs_as_tuples_and_shards_change_nothing(tmp_path):
    model = saved_text_model(tmp_path / "tuples", return_dict=False)
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("tuples", "shards"):
        assert torch.equal(logits(load_classifier(str(tmp_path / name)), "bert"), logits(model, "bert"))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    build("bert").save_pretrained(tmp_path)
    with pytest.raises(OSError, match="holds no tokenizer"):
        load_processing_class(str(tmp_path))


def test_a_folder_without_an_image_processor_is_refused(tmp_path):
    build("vit").save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"holds no image processor \(preprocessor_config\.json\)"):
        load_processing_class(str(tmp_path))


# --- an adapter that carries its head ---------------------------------------------------------------------------------


def adapter_with_head(folder, arch, task=None, labels=CLASSES, whole_base=False):
    """Save a base (without a head, or with one for two classes) and an adapter that holds the head; return the adapted model."""
    base = build(arch, labels=2)
    (base if whole_base else base.base_model).save_pretrained(folder / "base")
    processing_class(arch).save_pretrained(folder / "base")
    kind = AutoModelForSequenceClassification if arch in TEXT else AutoModelForImageClassification
    bare = kind.from_pretrained(folder / "base", num_labels=labels, ignore_mismatched_sizes=True)
    config = LoraConfig(
        task_type=task, target_modules=["query", "q_proj"], modules_to_save=["classifier"], init_lora_weights=False
    )
    model = get_peft_model(bare, config).eval()
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].apply(
            lambda m: m.weight.normal_() if hasattr(m, "weight") else None
        )
    model.save_pretrained(folder / "adapter")
    return model


@pytest.mark.parametrize(
    ("arch", "task", "whole_base"),
    [
        ("bert", "SEQ_CLS", False),
        *slow(("bert", None, True), ("roberta", "SEQ_CLS", False), ("vit", None, False)),
    ],
)
def test_an_adapter_that_carries_the_head_loads_over_a_base_without_it(tmp_path, arch, task, whole_base):
    model = adapter_with_head(tmp_path, arch, task, whole_base=whole_base)
    loaded = load_classifier(str(tmp_path / "adapter"))
    assert loaded.config.num_labels == CLASSES
    assert torch.equal(logits(loaded, arch), logits(model, arch))
    again = load_classifier(str(tmp_path / "adapter"))
    assert not changed(state(loaded), state(again)), "what the base lacks must not be random"
    beside_the_base = load_processing_class(str(tmp_path / "adapter"))
    assert type(beside_the_base) is type(load_processing_class(str(tmp_path / "base")))
    once = logits(loaded, arch)
    patch = Patch(loaded, "lora")
    perturb(patch)
    with patch.off() as off:
        assert torch.equal(logits(off, arch), once)
    twice = logits(patch.model, arch)
    assert not torch.equal(twice, once)
    save_model(patch.model, None, tmp_path / "stacked")
    assert torch.equal(logits(load_classifier(str(tmp_path / "stacked")), arch), twice)


def test_what_neither_adapter_nor_base_holds_is_refused(tmp_path):
    build("distilbert").base_model.save_pretrained(tmp_path / "base")
    bare = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=CLASSES)
    config = LoraConfig(target_modules=["q_lin"])
    get_peft_model(bare, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"lacks 4 weights, such as classifier\.bias"):
        load_classifier(str(tmp_path / "adapter"))


def test_an_adapter_whose_base_is_gone_or_that_is_a_pickle_says_so(tmp_path):
    adapter_with_head(tmp_path, "bert")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"`base_model_name_or_path=.*there is no such file or folder"):
        load_classifier(str(tmp_path / "adapter"))
    (tmp_path / "elsewhere").rename(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(OSError, match=r"holds adapter_model\.bin and no adapter_model\.safetensors"):
        load_classifier(str(tmp_path / "adapter"))

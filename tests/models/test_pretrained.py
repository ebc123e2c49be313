"""Classifiers and stacks of adapters in folders, loaded, saved, pushed and named on the command line."""

import datasets
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, LlamaConfig

from hf_unlearn.cli import main
from hf_unlearn.hub.card.command_lines import snippet
from hf_unlearn.hub.push.staging import prepare_folder
from hf_unlearn.models.adapters import Patch
from hf_unlearn.models.pretrained import (
    auto_class,
    is_image_dataset,
    load_classifier,
    load_processing_class,
    save_model,
)
from tests.models.support import logits, perturb
from tests.support.data import data_for, image_data, image_processor, pixel_data, text_data, tokenizer
from tests.support.models import build, changed, state, trained

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


def test_an_adapter_that_names_no_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no base"):
        load_classifier(str(tmp_path), text_data(2))


def test_columns_say_whether_rows_are_images():
    assert [is_image_dataset(d) for d in (image_data(2), pixel_data(2), text_data(2))] == [True, True, False]
    photos = image_data(2).rename_column("image", "photo")
    assert auto_class(photos) is AutoModelForImageClassification
    assert auto_class(datasets.Dataset.from_dict({"review": ["a"]})) is AutoModelForSequenceClassification


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"`model`: .* holds no tokenizer. Save there the one that the model was trained"
    ):
        load_processing_class(str(tmp_path), text_data(2))

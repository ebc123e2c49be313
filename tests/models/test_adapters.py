"""Patches: adapters over a frozen original, switched off, stacked, saved, loaded and merged."""

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from hf_unlearn import JiT
from hf_unlearn.models.adapters import (
    Patch,
    adapter_names,
    base_classifier,
    configurations,
    is_adapted,
    load_patches,
    norms_to_hold,
)
from hf_unlearn.models.prediction import predict
from hf_unlearn.models.pretrained import save_model
from tests.models.support import RANDOM, adapted, first_row, logits, patched, perturb
from tests.support.data import class_split, processing_class
from tests.support.methods import make
from tests.support.models import build, changed, state, trained
from tests.support.runs import SGD, trainer_for
from tests.support.tables import slow

KINDS = ("lora", "dora", "ia3")


ARCHES = ("vit", *slow("resnet", "bert", "convnext", "swin", "distilbert", "roberta"))


# --- switched on and off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHES)
def test_a_patch_on_every_architecture_is_switched_off_bit_for_bit_and_stacked(arch, kind):
    model = trained(arch)
    want = logits(model, arch)
    first = Patch(model, kind)
    assert not first.trains_head
    torch.testing.assert_close(logits(first.model, arch), want, atol=1e-5, rtol=1e-5)
    perturb(first)
    once = logits(first.model, arch)
    second = Patch(first.model, kind)
    assert not set(first.names) & set(second.names)
    perturb(second)
    twice = logits(second.model, arch)
    assert not torch.equal(once, want)
    assert not torch.equal(twice, once)
    with second.off() as now:
        assert torch.equal(logits(now, arch), once)
    with second.model.disable_adapter():
        assert torch.equal(logits(second.model, arch), want)
    assert second.describe()["stacked_on"] == 1


def test_the_initial_adapter_is_the_same_in_every_process_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    first = Patch(trained("vit"), "lora", seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert not changed(state(first.model), state(Patch(trained("vit"), "lora", seed=3).model))
    assert changed(state(first.model), state(Patch(trained("vit"), "lora", seed=4).model))


def test_a_patch_names_the_commit_of_its_base(tmp_path):
    model = trained("vit")
    model.config._commit_hash = "a" * 40
    Patch(model, "lora").model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "a" * 40


@pytest.mark.slow
def test_of_several_adapters_the_active_ones_are_the_original(tmp_path):
    model = adapted()
    for name in ("two", "three"):
        model.add_adapter(name, LoraConfig(target_modules=["q_proj"], **RANDOM))
    model.base_model.set_adapter(["default", "three"])
    want = logits(model, "vit")
    trainer = patched("vit", tmp_path, make("fine_tune"), model=model, **SGD)
    trainer.train()
    assert trainer.patch.before == ["default", "three"]
    with trainer.patch.off() as now:
        assert torch.equal(logits(now, "vit"), want)
        with trainer.patch.off():  # as the report does inside
            assert torch.equal(logits(now, "vit"), want)
        assert torch.equal(logits(now, "vit"), want), "the patch was on again"
    assert not torch.equal(logits(trainer.model, "vit"), want)


OTHER_KINDS = [
    ("bert", {"peft_type": "IA3"}),
    ("vit", {"peft_type": "LN_TUNING"}),
    ("bert", {"peft_type": "VERA"}),
    ("vit", {"peft_type": "LOHA"}),
    ("bert", {"peft_type": "LOKR"}),
    ("vit", {"peft_type": "OFT", "oft_block_size": 4}),
    ("vit", {"peft_type": "FOURIERFT", "n_frequency": 50, "init_weights": True}),
    ("vit", {"peft_type": "ADALORA", "total_step": 10}),
    ("bert", {"target_modules": "all-linear", "rank_pattern": {"query": 4}, "lora_dropout": 0.3}),
]


UNSTACKED = {"LN_TUNING": "more than one adapter", "ADALORA": "only 1 trainable adapter"}


@pytest.mark.parametrize(
    ("arch", "config"), OTHER_KINDS, ids=[config.get("peft_type", "LORA") for _, config in OTHER_KINDS]
)
@pytest.mark.slow
def test_other_kinds_are_trained_switched_off_saved_merged_and_stacked(tmp_path, arch, config):
    want = logits(trained(arch), arch)
    trainer = patched(arch, tmp_path / "run", make("gradient_difference"), config, **{**SGD, "learning_rate": 0.1})
    before = state(trainer.model)
    trainer.train()
    assert changed(before, state(trainer.model))
    perturb(trainer.patch)
    unlearned = logits(trainer.model, arch)
    with trainer.patch.off() as model:
        assert torch.equal(logits(model, arch), want)
    save_model(trainer.model, None, tmp_path / "patch")
    loaded = load_patches(trained(arch), tmp_path / "patch")
    assert torch.equal(logits(loaded, arch), unlearned)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), arch), unlearned, atol=1e-5, rtol=1e-4)
    if (kind := config.get("peft_type")) in UNSTACKED:
        with pytest.raises(ValueError, match=UNSTACKED[kind]):
            Patch(trainer.model, config, probe=first_row(arch))
        return
    second = Patch(trainer.model, config, probe=first_row(arch))
    perturb(second)
    with second.off() as model:
        assert torch.equal(logits(model, arch), unlearned)


@pytest.mark.slow
def test_a_model_in_half_precision_is_patched(tmp_path):
    dtype = torch.bfloat16
    want = logits(trained("vit").to(dtype), "vit")
    trainer = patched("vit", tmp_path / "run", config="dora", model=trained("vit").to(dtype))
    trainer.train()
    with trainer.patch.off() as model:
        assert torch.equal(logits(model, "vit"), want)
    trainer.model.save_pretrained(tmp_path / "patch")
    loaded = load_patches(trained("vit").to(dtype), tmp_path / "patch")
    assert torch.equal(logits(loaded, "vit"), logits(trainer.model, "vit"))


# --- saved, loaded, merged, stacked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["lora", *slow("dora", "ia3", LoraConfig(r=2, modules_to_save=["classifier"]))])
@pytest.mark.parametrize("arch", ["vit", *slow("bert", "resnet")])
def test_a_saved_patch_is_loaded_switched_off_and_merged(tmp_path, arch, config):
    trainer = patched(arch, tmp_path / "run", config=config)
    trainer.train()
    unlearned = logits(trainer.model, arch)
    save_model(trainer.model, processing_class(arch), tmp_path / "patch")
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {f.name for f in (tmp_path / "patch").iterdir()}
    assert not {"README.md", "model.safetensors"} & {f.name for f in (tmp_path / "patch").iterdir()}
    loaded = PeftModel.from_pretrained(trained(arch), tmp_path / "patch")
    assert torch.equal(logits(loaded, arch), unlearned)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded, arch), logits(trained(arch), arch))
    merged = loaded.merge_and_unload()
    assert not isinstance(merged, PeftModel)
    assert set(merged.state_dict()) == set(trained(arch).state_dict())
    torch.testing.assert_close(logits(merged, arch), unlearned, atol=1e-5, rtol=1e-4)


def test_two_requests_are_two_patches_each_of_which_can_be_taken_off(tmp_path):
    first = patched("vit", tmp_path / "1", split=class_split("vit", label=1))
    first.train()
    once = logits(first.model, "vit")
    second = patched("vit", tmp_path / "2", model=first.model, split=class_split("vit", label=2))
    held = {n: t for n, t in state(second.model).items() if ".default" in n}
    second.train()
    twice = logits(second.model, "vit")
    assert not torch.equal(twice, once)
    torch.testing.assert_close(second.reference.logits, predict_forget(first, second), atol=1e-6, rtol=1e-5)
    assert all(torch.equal(t, state(second.model)[n]) for n, t in held.items()), "the first patch moved"
    with second.patch.off() as model:
        assert torch.equal(logits(model, "vit"), once)

    second.model.save_pretrained(tmp_path / "both")
    loaded = PeftModel.from_pretrained(trained("vit"), tmp_path / "both")
    loaded.load_adapter(tmp_path / "both" / second.patch.name, second.patch.name)
    assert torch.equal(logits(loaded, "vit"), once)
    loaded.base_model.set_adapter(["default", second.patch.name])
    assert torch.equal(logits(loaded, "vit"), twice)
    merged = loaded.merge_and_unload(adapter_names=["default", second.patch.name])
    torch.testing.assert_close(logits(merged, "vit"), twice, atol=1e-5, rtol=1e-4)


def predict_forget(first, second):
    """Logits of the model with the first patch alone on the second forget set."""

    with second.patch.off() as model:
        return predict(model, second.forget_dataset, first.processor)[0]


def test_the_file_is_no_larger_than_its_parameters(tmp_path):
    trainer = patched("vit", tmp_path / "run")
    trainer.train()
    save_model(trainer.model, None, tmp_path / "patch")
    file = tmp_path / "patch" / "adapter_model.safetensors"
    assert sum(t.numel() for t in load_file(file).values()) == trainer.patch.describe()["parameters"]
    assert file.stat().st_size <= 4 * trainer.patch.describe()["parameters"] + 4096


# --- the head, and statistics of norms --------------------------------------------------------------------------------


def test_the_head_is_frozen_unless_it_is_asked_for(tmp_path, caplog):
    assert not patched("bert", tmp_path / "a").patch.trains_head
    saved = patched("vit", tmp_path / "b", config=LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]))
    assert saved.patch.trains_head
    assert not [r for r in caplog.records if "head" in r.message]
    assert patched("bert", tmp_path / "c", config=LoraConfig(task_type="SEQ_CLS")).patch.trains_head
    assert "task_type" in caplog.text


@pytest.mark.parametrize("head", ["cls_classifier", "distillation_classifier"])
def test_either_head_of_a_distilled_model_is_its_head(head):
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=16, patch_size=8, num_labels=4, **small))
    assert not Patch(copy.deepcopy(model), "lora").trains_head
    assert Patch(model, LoraConfig(target_modules=["q_proj"], modules_to_save=[head])).trains_head


def test_only_copies_of_the_head_count_as_the_head():
    patch = Patch(trained("bert"), LoraConfig(target_modules=["query"], modules_to_save=["pooler"]))
    assert not patch.trains_head
    assert any("pooler" in n for n in patch.names)


@pytest.mark.parametrize("second", [{"modules_to_save": ["classifier"]}, {"task_type": "SEQ_CLS"}])
@pytest.mark.slow
def test_two_copies_of_the_head_are_refused_and_one_below_stays(tmp_path, second):
    model = adapted("bert", modules_to_save=["classifier"])
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(0.1)
    once = logits(model, "bert")
    with pytest.raises(ValueError, match="second copy of classifier"):
        patched("bert", tmp_path, config=LoraConfig(target_modules=["query"], **second), model=model)
    patch = Patch(model, "lora", probe=first_row("bert"))
    assert not patch.trains_head
    perturb(patch)
    with patch.off() as now:
        assert torch.equal(logits(now, "bert"), once)


@pytest.mark.parametrize(
    ("name", "settings"), [("fine_tune", {}), ("jit", {"mode": "train"}), ("gradient_difference", {})]
)
def test_batch_norm_statistics_stay_under_a_patch(tmp_path, name, settings):
    trainer = patched("resnet", tmp_path, make(name, **settings))
    before = {n: b.clone() for n, b in trainer.model.named_buffers()}
    trainer.train()
    assert before
    assert not changed(before, dict(trainer.model.named_buffers()))


@pytest.mark.slow
def test_statistics_of_batch_norms_below_any_adapter_stay(tmp_path):
    trainer = patched("resnet", tmp_path / "run", make("fine_tune"), None, model=adapted("resnet"), **SGD)
    before = {n: b.clone() for n, b in trainer.model.named_buffers()}
    trainer.train()
    assert not changed(before, dict(trainer.model.named_buffers()))
    trainer.model.save_pretrained(tmp_path / "adapter")
    loaded = load_patches(trained("resnet"), tmp_path / "adapter")
    assert torch.equal(logits(loaded, "resnet"), logits(trainer.model, "resnet"))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (LoraConfig(init_lora_weights=False), "would not start from the original.*load it again"),
        ({"peft_type": "FOURIERFT", "n_frequency": 50}, "would not start from the original"),
        ({"peft_type": "POLY", "n_tasks": 1}, "does not fit the model: task_ids.*load it again"),
        (LoraConfig(target_modules=["q_proj", "layernorm_before"]), "does not fit the model.*load it again"),
        ({"peft_type": "TRAINABLE_TOKENS"}, "does not fit the model"),
        (LoraConfig(inference_mode=True), "leaves nothing to train"),
    ],
)
@pytest.mark.slow
def test_what_cannot_work_is_found_by_one_row_before_the_run(tmp_path, config, match):
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path, config=config)


@pytest.mark.slow
def test_an_initialisation_that_moves_the_base_is_found_by_its_outputs(monkeypatch):
    monkeypatch.setattr("hf_unlearn.models.adapter_config.MOVES_BASE", ())
    with pytest.raises(ValueError, match="not the original's bit for bit"):
        Patch(trained("vit"), LoraConfig(init_lora_weights="pissa", r=2), probe=first_row())


def reused(folder):
    base = trained("vit")
    Patch(base, "lora")
    return base


def injected(folder):
    adapted().save_pretrained(folder / "adapter")
    model = trained("vit")
    model.load_adapter(str(folder / "adapter"))
    return model


def merged(folder):
    model = adapted()
    model.merge_adapter()
    return model


def off(folder):
    model = adapted()
    model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize("config", [None, "lora"])
@pytest.mark.parametrize(
    ("make_model", "match"),
    [(reused, "trainer.model"), (injected, "not be saved"), (merged, "merged in"), (off, "switched")],
)
@pytest.mark.slow
def test_adapters_that_would_be_lost_are_refused(tmp_path, make_model, match, config):
    model = make_model(tmp_path)
    before = state(model)
    with pytest.raises(ValueError, match=match):
        patched("vit", tmp_path / "run", config=config, model=model)
    assert not changed(before, state(model))


def test_a_peft_model_that_cannot_move_is_refused(tmp_path):
    model = get_peft_model(trained("vit"), IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    with pytest.raises(ValueError, match="none of whose parameters may move"):
        trainer_for("vit", tmp_path, JiT(), model=model.requires_grad_(False))


def test_an_adapter_put_in_by_transformers_is_refused(tmp_path):
    get_peft_model(build("vit"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    model = trained("vit")
    model.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"Load it with `PeftModel\.from_pretrained"):
        patched("vit", tmp_path, model=model)


@pytest.mark.slow
def test_update_chooses_among_the_parameters_of_a_given_adapter(tmp_path):
    trainer = patched("vit", tmp_path / "a", JiT(), None, model=adapted(), update="lora_B")
    assert trainer.updated
    assert all("lora_B" in n for n in trainer.updated)
    assert patched("vit", tmp_path / "b", JiT(), None, model=adapted()).args.update == "adapter"
    with pytest.raises(ValueError, match="matches no parameter"):
        patched("vit", tmp_path / "c", JiT(), None, model=adapted(), update="head")


def test_statistics_are_held_where_a_parameter_of_the_norm_is_frozen():
    model = build("resnet")
    norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms_to_hold(model, [n for n, _ in model.named_parameters()]) == []
    first = next(iter(norms))
    moving = [n for n, _ in model.named_parameters() if n != f"{first}.weight"]
    assert norms_to_hold(model, moving) == [norms[first]]
    assert norms_to_hold(model, []) == list(norms.values())
    assert len(norms_to_hold(adapted("resnet"), [n for n, _ in model.named_parameters()])) == len(norms)


def test_only_a_peft_model_has_adapters():
    plain, model = trained("vit"), adapted()
    assert (is_adapted(plain), is_adapted(torch.nn.DataParallel(model))) == (False, True)
    assert base_classifier(plain) is plain
    assert base_classifier(torch.nn.DataParallel(model)) is model.base_model.model
    assert adapter_names(plain) == []
    assert configurations(plain) == {}
    assert adapter_names(model) == [n for n, _ in model.named_parameters() if "lora_" in n]
    (found,) = configurations(model).values()
    assert (found["peft_type"], found["r"], found["target_modules"]) == ("LORA", 2, ["q_proj"])
    assert "base_model_name_or_path" not in found
    json.dumps(found)
